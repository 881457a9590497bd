#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""samepaged --ksm-files: the files of /sys/kernel/mm/ksm, compared with the kernel's own where it has them."""

import errno
import os
import re
import stat
import subprocess
import unittest

import tap
from cli_helper import SAMEPAGED, Case, become_nobody, wait_until

KERNEL = "/sys/kernel/mm/ksm"
LONGS = ("advisor_max_cpu", "advisor_target_scan_time", "advisor_min_pages_to_scan", "advisor_max_pages_to_scan")
SETTINGS = ("run", "sleep_millisecs", "pages_to_scan", "max_page_sharing", "merge_across_nodes", "use_zero_pages",
            "smart_scan", "advisor_mode", *LONGS, "stable_node_chains_prune_millisecs")
MODE = r"\[none\] scan-time\n|none \[scan-time\]\n"
# Wrong for every file of a number; what is wrong for some only follows.
WRONG = ("", "\n", " 1", "1 ", "-1", "x", "1\n\n", "0x1", "4294967296", "99999999999999999999", "1 2", "\0", "é")
SWITCHES = ("use_zero_pages", "smart_scan")


def outcome(path, text):
    """Writes with one system call; 0 or the errno."""
    try:
        fd = os.open(path, os.O_WRONLY)
    except OSError as e:
        return e.errno
    try:
        os.write(fd, text.encode())
        return 0
    except OSError as e:
        return e.errno
    finally:
        os.close(fd)


def read(path):
    with open(path, encoding="ascii") as f:
        return f.read()


@unittest.skipIf(os.geteuid() or not os.path.exists("/dev/fuse"), "needs root and /dev/fuse")
class Files(Case):
    def setUp(self):
        super().setUp()
        self.directory = f"{self.runtime}/ksm"
        os.mkdir(self.directory)
        self.addCleanup(lambda: subprocess.run(["umount", "-l", self.directory], stderr=subprocess.DEVNULL, check=False))
        self.socket = self.daemon(None, "--ksm-files", self.directory)

    def path(self, name):
        return f"{self.directory}/{name}"

    def get(self, key):
        status, out, err = self.samepage("get", "--socket", self.socket, key)
        self.assertEqual((status, err), (0, ""))
        return out

    def test_what_is_there(self):
        names = sorted(os.listdir(self.directory))
        self.assertEqual([n for n in SETTINGS if n not in names], [])
        for name in names:
            mode = os.stat(self.path(name)).st_mode
            self.assertTrue(stat.S_ISREG(mode))
            self.assertEqual(bool(mode & 0o222), name in SETTINGS, name)
            self.assertEqual(os.stat(self.path(name)).st_size, 4096)
            self.assertRegex(read(self.path(name)), r"^\d+\n$" if name != "advisor_mode" else MODE)
        if os.path.isdir(KERNEL):
            missing = set(os.listdir(KERNEL)) - set(names)
            self.assertEqual(missing, set())
            self.assertEqual(set(names) - set(os.listdir(KERNEL)), set())

    def test_formats_are_the_kernels(self):
        if not os.path.isdir(KERNEL):
            self.skipTest("this kernel has no KSM")
        for name in os.listdir(self.directory):
            ours, kernels = read(self.path(name)), read(f"{KERNEL}/{name}")
            for text in (ours, kernels):
                self.assertTrue(re.fullmatch(r"-?\d+\n" if name != "advisor_mode" else MODE, text), name)
            mode = os.stat(f"{KERNEL}/{name}").st_mode
            self.assertEqual(bool(mode & 0o200), bool(os.stat(self.path(name)).st_mode & 0o200), name)

    def test_wrong_values_fail_as_the_kernels(self):
        """Nothing valid is written to the kernel's but what it says already."""
        for name in SETTINGS:
            own = {"run": ("3", "-0", "+"), "max_page_sharing": ("1", "0", "2147483648"),
                   "merge_across_nodes": ("2", "y", "on", "18446744073709551616"),
                   "use_zero_pages": ("2", "o", "+1"), "smart_scan": ("2", "o", "+1"),
                   "advisor_mode": ("0", "None", "none ", "[none]", "scan-time\n\n", "scan"),
                   "advisor_target_scan_time": ("0",)}.get(name, ())
            before = read(self.path(name))
            # The kernel's take a long and keep 32 bits of it, or all of a number that nothing reaches; ours do not.
            wrong = [t for t in WRONG if name not in LONGS or t != "4294967296"]
            for text in (*(() if name in SWITCHES else wrong), *own):
                with self.subTest(name=name, text=text):
                    ours = outcome(self.path(name), text)
                    if os.path.isdir(KERNEL):
                        self.assertEqual(ours, outcome(f"{KERNEL}/{name}", text))
                    self.assertIn(ours, (0,) if text == "" else (errno.EINVAL, errno.ERANGE))
                    self.assertEqual(read(self.path(name)), before)

    def test_right_values_are_taken_as_the_kernels(self):
        """What they say already, in all forms. The kernel's advisor, when it is on, lets nobody set pages_to_scan."""
        kernel = os.path.isdir(KERNEL) and read(f"{KERNEL}/advisor_mode").startswith("[none]")
        for name in SETTINGS:
            if name == "advisor_mode":
                continue
            for form in ("{}", "{}\n", *(() if name in SWITCHES else ("+{}", "0{}"))):
                for base in (self.directory, KERNEL) if kernel else (self.directory,):
                    path = f"{base}/{name}"
                    before = read(path)
                    self.assertEqual(outcome(path, form.format(before.strip())), 0, (path, form))
                    self.assertEqual(read(path), before)

    def test_files_and_command_agree(self):
        for name, value in (("run", "0"), ("sleep_millisecs", "77"), ("pages_to_scan", "1234"),
                            ("max_page_sharing", "9"), ("merge_across_nodes", "0"), ("use_zero_pages", "0"), ("smart_scan", "0")):
            with open(self.path(name), "w", encoding="ascii") as f:  # truncates, as a shell's > does
                f.write(value + "\n")
            self.assertEqual(self.get(name), value + "\n")
        self.assertEqual(self.samepage("set", "--socket", self.socket, "run=2")[0], 0)
        self.assertEqual(read(self.path("run")), "2\n")
        subprocess.run(["sh", "-c", f"echo 1 >> {self.path('run')}"], check=True)
        self.assertEqual(self.get("run"), "1\n")
        fd = os.open(self.path("run"), os.O_RDWR)
        os.pwrite(fd, b"0", 5)
        self.assertEqual(os.pread(fd, 10, 0), b"0\n")
        self.assertEqual((os.pread(fd, 1, 1), os.pread(fd, 10, 2), os.pread(fd, 10, 99)), (b"\n", b"", b""))
        os.close(fd)

    def test_the_advisor_has_pages_to_scan(self):
        def put(name, text):
            return outcome(self.path(name), text)
        self.assertEqual(put("pages_to_scan", "77\n"), 0)
        self.assertEqual(put("advisor_mode", "scan-time\n"), 0)
        self.assertEqual(read(self.path("advisor_mode")), "none [scan-time]\n")
        self.assertEqual(self.get("advisor_mode"), "scan-time\n")
        self.assertEqual((read(self.path("pages_to_scan")), self.get("pages_to_scan")), ("500\n", "500\n"))
        self.assertEqual(put("pages_to_scan", "77\n"), errno.EINVAL)
        self.assertEqual((put("advisor_min_pages_to_scan", "900"), read(self.path("pages_to_scan"))), (0, "900\n"))
        self.assertEqual((put("advisor_max_pages_to_scan", "800"), read(self.path("pages_to_scan"))), (0, "800\n"))
        self.assertEqual(put("advisor_mode", "none"), 0)
        self.assertEqual(read(self.path("pages_to_scan")), "77\n")

    def test_what_cannot_be_done(self):
        cases = (
            (lambda d: open(f"{d}/pages_shared", "w", encoding="ascii"), "write a counter"),
            (lambda d: open(f"{d}/new", "w", encoding="ascii"), "create"),
            (lambda d: open(f"{d}/none", encoding="ascii"), "open what is not there"),
            (lambda d: open(d, "w", encoding="ascii"), "write the directory"),
            (lambda d: os.mkdir(f"{d}/new"), "mkdir"),
            (lambda d: os.mknod(f"{d}/new"), "mknod"),
            (lambda d: os.unlink(f"{d}/run"), "unlink"),
            (lambda d: os.rmdir(f"{d}/run"), "rmdir"),
            (lambda d: os.rename(f"{d}/run", f"{d}/walk"), "rename"),
            (lambda d: os.symlink("x", f"{d}/new"), "symlink"),
            (lambda d: os.link(f"{d}/run", f"{d}/new"), "link"),
        )
        for call, what in cases:
            with self.subTest(what=what):
                errors = []
                for d in (self.directory, KERNEL) if os.path.isdir(KERNEL) else (self.directory,):
                    try:
                        call(d)
                        errors.append(0)
                    except OSError as e:
                        errors.append(e.errno)
                self.assertNotEqual(errors[0], 0)
                self.assertEqual(len(set(errors)), 1, errors)

    def test_other_users(self):
        """They see and set their own domain."""
        def nobody(*words):
            return subprocess.run(words, preexec_fn=become_nobody, capture_output=True, text=True, check=False)
        self.assertEqual(nobody("sh", "-c", f"echo 0 > {self.path('run')}").stderr, "")
        self.assertEqual(nobody("cat", self.path("run")).stdout, "0\n")
        self.assertEqual(read(self.path("run")), "1\n")
        self.assertNotEqual(nobody("chmod", "600", self.path("run")).returncode, 0)

    def test_the_end(self):
        self.daemon_process.terminate()
        self.daemon_process.wait()
        self.assertEqual(os.listdir(self.directory), [])
        # One that is killed leaves a mount without anybody; the next one takes its place.
        self.daemon(self.socket, "--ksm-files", self.directory)
        self.daemon_process.kill()
        self.daemon_process.wait()
        self.assertRaises(OSError, os.listdir, self.directory)
        self.daemon(self.socket, "--ksm-files", self.directory)
        self.assertEqual(read(self.path("run")), "1\n")

    def test_unmounted_by_somebody(self):
        subprocess.run(["umount", self.directory], check=True)
        self.assertEqual(self.get("run"), "1\n")
        wait_until(lambda: not os.path.ismount(self.directory), "the end of the mount")
        self.assertEqual(self.get("run"), "1\n")


class Wrong(Case):
    def test_directories(self):
        full, file = f"{self.runtime}/full", f"{self.runtime}/file"
        os.mkdir(full)
        for path in (file, f"{full}/x"):
            open(path, "w", encoding="ascii").close()
        for directory in ("/no/such/directory", file, full, ""):
            p = self.samepage("--socket", f"{self.runtime}/x/socket", "--ksm-files", directory, program=SAMEPAGED)
            self.assertNotEqual(p[0], 0, directory)
            self.assertIn("--ksm-files", p[2])
        self.assertFalse(os.path.ismount(full) or os.path.ismount(file))


if __name__ == "__main__":
    tap.main()
