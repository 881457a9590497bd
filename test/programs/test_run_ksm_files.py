#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""samepage run --ksm-files: a command that sees our files at /sys/kernel/mm/ksm, and everybody else as ever."""

import array
import contextlib
import errno
import fcntl
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import unittest

import tap
from cli_helper import PRELOAD, SAMEPAGE, SAMEPAGED, Case, wait_until

KERNEL = "/sys/kernel/mm/ksm"
USER = 4242  # not nobody: that is how everybody without a number looks in a user namespace
HEADER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../src/wire/message.h")
FUSE_DEV_IOC_SYNC_INIT = 0xE503

# Advises pages that are all the same, waits until they are merged, and says what the files say of them.
SHARER = f"""
import mmap, time
data = b"samepage" * (1 << 18)
m = mmap.mmap(-1, len(data), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
m[:] = data
m.madvise(mmap.MADV_MERGEABLE)
for i in range(1000):
    if int(open("{KERNEL}/pages_sharing").read()) > 400:
        break
    time.sleep(0.05)
print(int(open("{KERNEL}/pages_sharing").read()) > 400, m[:] == data)
"""

# A place of one's own for devices that every user may open, whatever this machine says; then an ordinary user.
AS_USER = """
mount -t tmpfs -o mode=755 none "$1" || exit 77
for device in fuse userfaultfd; do
    [ -e "/dev/$device" ] || continue
    number=$(awk -v name="$device" '$2 == name { print $1 }' /proc/misc)
    mknod -m 666 "$1/$device" c 10 "$number" && mount --bind "$1/$device" "/dev/$device" || exit 77
done
shift
exec setpriv --reuid "${SP_TEST_USER:-4242}" --regid 4242 --groups 4242,5 "$@"
"""

# Hands over so many mounts as argv[3] says, each as often as argv[4] says by the same connection, prints the
# results, and keeps the mounts until the end of its input.
HANDER = """
import array, ctypes, os, socket, struct, sys
path, request, mounts, times = sys.argv[1], bytes.fromhex(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
mount, results = ctypes.CDLL(None, use_errno=True).mount, []
assert not mount(b"none", b"/mnt", b"tmpfs", 0, None), os.strerror(ctypes.get_errno())
for i in range(mounts):
    os.mkdir(f"/mnt/{i}")
    fd = os.open("/dev/fuse", os.O_RDWR)
    assert not mount(b"test", f"/mnt/{i}".encode(), b"fuse.ksm", 0,
                     f"fd={fd},rootmode=40755,user_id=0,group_id=0,allow_other".encode()), os.strerror(ctypes.get_errno())
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.connect(path)
        for _ in range(times):
            s.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
            results.append(struct.unpack_from("=i", s.recv(4096), 16)[0])
    os.close(fd)
print(*results, flush=True)
sys.stdin.read()
"""


# What the cases write, and the kernel's own files must never say.
WRITTEN = {"sleep_millisecs": ("77", "22", "11", "4711", "7", "4321"), "pages_to_scan": ("1234",)}


@unittest.skipIf(os.geteuid() or not os.path.exists("/dev/fuse") or not os.path.isdir(KERNEL),
                 "needs root, /dev/fuse and a kernel with KSM")
class View(Case):
    def setUp(self):
        super().setUp()
        self.addCleanup(self.check_kernels)

    def check_kernels(self):
        for name, values in WRITTEN.items():
            with open(f"{KERNEL}/{name}", encoding="ascii") as f:
                self.assertNotIn(f.read().strip(), values)

    def run_shell(self, script, *options, **more):
        return self.samepage("run", "--ksm-files", *options, "--", "sh", "-c", script, **more)

    def as_user(self, *words, **options):
        """An ordinary user runs a copy of samepage, as the checkout may be where only root can go."""
        directory = tempfile.mkdtemp(prefix="sp-cli-")
        self.addCleanup(shutil.rmtree, directory, True)
        for path in (SAMEPAGE, SAMEPAGED, PRELOAD):
            os.chmod(shutil.copy(path, directory), 0o755)
        os.mkdir(f"{directory}/devices")
        os.chmod(directory, 0o755)
        os.chmod(self.runtime, 0o1777)  # sticky, as /tmp: what is root's there stays
        result = self.samepage("-m", "sh", "-c", AS_USER, "sh", f"{directory}/devices", f"{directory}/samepage",
                               *words, program="unshare", **options)
        if result[0] == 77:
            self.skipTest(f"no mounts of one's own here: {result[2]}")
        return result


class Root(View):
    def test_the_command_sees_ours(self):
        status, out, err = self.run_shell(
            f"cd {KERNEL} && cat run && echo 77 > sleep_millisecs && cat sleep_millisecs && ls | wc -l &&"
            "(exec sh -c 'echo 1234 > pages_to_scan') && cat pages_to_scan")
        self.assertEqual((status, err), (0, ""))
        self.assertEqual(out.split()[:2] + out.split()[3:], ["1", "77", "1234"])
        self.assertNotIn("sp-cli", open("/proc/self/mounts", encoding="utf-8").read())
        self.wait_no_daemon()

    def test_what_is_shared_shows(self):
        status, out, err = self.samepage("run", "--ksm-files", "--set",
                                         "worker_start_kbytes=0,sleep_millisecs=5,sleep_max_millisecs=20", "--",
                                         "/usr/bin/python3", "-c", SHARER)
        self.assertEqual((status, out, err), (0, "True True\n", ""))

    def test_standing_in_the_directory(self):
        status, out, err = self.samepage("run", "--ksm-files", "--set", "sleep_millisecs=4321", "--",
                                         "cat", "sleep_millisecs", cwd=KERNEL)
        self.assertEqual((status, out, err), (0, "4321\n", ""))

    def test_the_command_stays_itself(self):
        """Its end, descriptors, directory, and who it is."""
        self.assertEqual(self.run_shell("exit 42")[0], 42)
        self.assertEqual(self.run_shell("kill -TERM $$")[0], -signal.SIGTERM)
        self.assertEqual(self.run_shell("kill -KILL $$", "--summary")[0], -signal.SIGKILL)
        read, write = os.pipe()
        p = self.popen("run", "--ksm-files", "--", "sh", "-c", f"pwd; ls /proc/self/fd | wc -w; echo x >&{write}",
                       pass_fds=[write], cwd=self.runtime)
        self.assertEqual(p.communicate(timeout=60), (f"{self.runtime}\n5\n", ""))  # 0, 1, 2, the pipe, ls's own
        os.close(write)
        self.assertEqual(os.read(read, 9), b"x\n")
        self.assertEqual(os.read(read, 9), b"")  # nobody else has kept it
        os.close(read)

    def test_the_end_of_the_daemon(self):
        """Then there is an error at once, not a wait, also for what was open."""
        socket_path = self.daemon()
        p = self.popen("run", "--ksm-files", "--socket", socket_path, "--", "sh", "-c",
                       f"exec 5<{KERNEL}/run; echo ready; read x; cat <&5; cat {KERNEL}/run; echo 1 > {KERNEL}/run",
                       stdin=subprocess.PIPE)
        self.assertEqual(p.stdout.readline(), "ready\n")
        self.daemon_process.kill()
        self.daemon_process.wait()
        out, err = p.communicate("\n", timeout=60)
        self.assertEqual(out, "")
        self.assertEqual(err.count("not connected"), 3, err)

    def test_a_stopped_daemon(self):
        """The command is not run, and what is wrong is said, as soon as by every other command."""
        socket_path = self.daemon()
        self.daemon_process.send_signal(signal.SIGSTOP)
        self.addCleanup(self.daemon_process.send_signal, signal.SIGCONT)
        begun = time.monotonic()
        asked = self.samepage("get", "--socket", socket_path, "run")
        middle = time.monotonic()
        result = self.samepage("run", "--ksm-files", "--socket", socket_path, "--", "echo", "run")
        self.assertLess(time.monotonic() - middle, 2 * (middle - begun))
        self.assertFailure(result, 125, "--ksm-files", "no answer in time")
        self.assertFailure(asked, 1, "no answer in time")
        self.assertEqual(result[1], "")

    def test_no_mount_is_left(self):
        """The daemon has a descriptor for as long as somebody can see the mount, a descendant too."""
        socket_path = self.daemon()
        def mounts():
            entries, n = f"/proc/{self.daemon_process.pid}/fd", 0
            for fd in os.listdir(entries):
                with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                    n += os.readlink(f"{entries}/{fd}") == "/dev/fuse"
            return n
        read, write = os.pipe()
        p = self.popen("run", "--ksm-files", "--socket", socket_path, "--", "sh", "-c",
                       f"(read x; cat {KERNEL}/run) <&{read} &", pass_fds=[read])
        os.close(read)
        self.assertEqual(p.wait(60), 0)
        wait_until(lambda: mounts() == 1, "the closing of what was passed")
        os.write(write, b"\n")
        os.close(write)
        self.assertEqual(p.communicate(timeout=60), ("1\n", ""))
        wait_until(lambda: mounts() == 0, "the end of the mount")

    def test_with_files_at_a_directory(self):
        directory = f"{self.runtime}/ksm"
        os.mkdir(directory)
        self.addCleanup(lambda: subprocess.run(["umount", "-l", directory], stderr=subprocess.DEVNULL, check=False))
        socket_path = self.daemon(None, "--ksm-files", directory)
        status, out, err = self.run_shell(f"echo 4711 > {KERNEL}/sleep_millisecs; cat {directory}/sleep_millisecs",
                                          "--socket", socket_path)
        self.assertEqual((status, out, err), (0, "4711\n", ""))

    def test_one_in_the_other(self):
        status, out, err = self.run_shell(f"{SAMEPAGE} run --ksm-files -- sh -c 'echo 7 > {KERNEL}/sleep_millisecs';"
                                          f"cat {KERNEL}/sleep_millisecs")
        self.assertEqual((status, out, err), (0, "7\n", ""))

    def test_another_user_namespace(self):
        """Root's numbers are believed, but not those that a container's map makes of them (1000 is 1234 outside)."""
        socket_path = self.daemon()
        p = self.popen("-Um", "sh", "-c", f"echo ready; read x; exec {SAMEPAGE} run --ksm-files --socket {socket_path} -- true",
                       program="unshare", stdin=subprocess.PIPE)
        if p.stdout.readline() != "ready\n":
            self.skipTest(p.communicate()[1])
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{p.pid}/{name}", "w", encoding="ascii") as f:
                f.write("0 0 1000\n1000 1234 1\n")
        err = p.communicate("\n", timeout=60)[1]
        self.assertEqual(p.returncode, 125, err)
        self.assertIn("in its own user namespace", err)

    def test_chroot(self):
        """Where / is no mount point it says so."""
        socket_path = self.daemon()
        script = f"""mount -t tmpfs none "$1" && mkdir "$1/root" && cd / || exit 77
            for entry in *; do
                if [ -L "$entry" ]; then cp -a "$entry" "$1/root/"; continue; fi
                [ -d "$entry" ] || continue
                [ "$entry" = tmp ] && how=--bind || how=--rbind
                mkdir "$1/root/$entry" && mount $how "/$entry" "$1/root/$entry" || exit 77
            done
            exec chroot "$1/root" {SAMEPAGE} run --ksm-files --socket {socket_path} -- true"""
        directory = tempfile.mkdtemp(dir=self.runtime)
        status, out, err = self.samepage("-m", "sh", "-c", script, "sh", directory, program="unshare")
        if status == 77:
            self.skipTest(err)
        self.assertEqual((status, out), (125, ""), err)
        self.assertIn("/ is no mount point", err)

    def test_of_another_user(self):
        """Root's may be used by others, who see and set what is theirs."""
        socket_path = self.daemon()
        status, out, err = self.run_shell(
            f"echo 11 > {KERNEL}/sleep_millisecs;"
            f"setpriv --reuid 65534 --regid 65534 --clear-groups sh -c 'echo 22 > {KERNEL}/sleep_millisecs;"
            f"cat {KERNEL}/sleep_millisecs'; cat {KERNEL}/sleep_millisecs", "--socket", socket_path)
        self.assertEqual((status, out, err), (0, "22\n11\n", ""))


class User(View):
    def test_private_daemon(self):
        status, out, err = self.as_user(
            "run", "--ksm-files", "--summary", "--", "sh", "-c",
            f"id -u; id -g; echo 77 > {KERNEL}/sleep_millisecs; cat {KERNEL}/sleep_millisecs;"
            f"echo 1 > {KERNEL}/full_scans;"
            "grep CapEff /proc/self/status; exit 3")
        self.assertEqual(status, 3, err)
        self.assertEqual(out.split(), ["4242", "4242", "77", "CapEff:", "0000000000000000"])
        self.assertIn("Permission denied", err)
        self.wait_no_daemon()

    @unittest.skipUnless(os.path.exists("/dev/userfaultfd"), "needs /dev/userfaultfd")
    def test_merging_with_either_daemon(self):
        """A user namespace has no root, yet root's daemon is believed, if only root can take its place."""
        fast = ("worker_start_kbytes=0", "sleep_millisecs=5", "sleep_max_millisecs=20")
        words = ["run", "--ksm-files", *(w for s in fast for w in ("--set", s))]
        result = self.as_user(*words, "--", "/usr/bin/python3", "-c", SHARER)
        self.assertEqual(result, (0, "True True\n", ""))
        directory = f"{self.runtime}/roots"
        os.mkdir(directory, 0o755)
        socket_path = self.daemon(f"{directory}/socket", "--set", ",".join(fast))
        os.chmod(socket_path, 0o666)
        result = self.as_user("run", "--ksm-files", "--socket", socket_path, "--", "/usr/bin/python3", "-c", SHARER)
        self.assertEqual(result, (0, "True True\n", ""))
        result = self.as_user("run", "--ksm-files", "--socket", socket_path, "--", "sh", "-c",
                                f"echo 0 > {KERNEL}/run; cat {KERNEL}/run")
        self.assertEqual(result, (0, "0\n", ""))
        self.assertEqual(self.samepage("get", "--socket", socket_path, "run")[1], "1\n")

    def test_who_calls_himself_root(self):
        """In a user namespace of his own anybody may be user 0: in the requests for a mount made there, too."""
        directory = f"{self.runtime}/roots"
        os.mkdir(directory, 0o755)
        socket_path = self.daemon(f"{directory}/socket")
        os.chmod(socket_path, 0o666)
        st = os.stat(directory)
        self.set(SAMEPAGE_VOUCH=f"{st.st_dev}:{st.st_ino}")
        script = f"id -u; echo 0 > {KERNEL}/run; cat {KERNEL}/run"
        status, out, err = self.as_user("run", "--", "unshare", "-Ur", SAMEPAGE, "run", "--ksm-files", "--socket",
                                          socket_path, "--", "sh", "-c", script)
        self.assertEqual((status, out, err), (0, "0\n0\n", ""))
        self.assertEqual(self.samepage("get", "--socket", socket_path, "run")[1], "1\n")

    def test_roots_directory_in_a_users(self):
        """Its owner may put another in its place."""
        parent = f"{self.runtime}/users"
        os.makedirs(f"{parent}/roots", 0o755)
        os.chown(parent, USER, USER)
        socket_path = self.daemon(f"{parent}/roots/socket")
        os.chmod(socket_path, 0o666)
        show = ("run", "--ksm-files", "--socket", socket_path, "--", "sh", "-c", "echo $SAMEPAGE_VOUCH")
        self.assertEqual(self.as_user(*show), (0, "\n", ""))
        os.chown(parent, 0, 0)
        st = os.stat(f"{parent}/roots")
        self.assertEqual(self.as_user(*show), (0, f"{st.st_dev}:{st.st_ino}\n", ""))

    def test_nobody_vouches(self):
        status, out, err = self.as_user("run", "--ksm-files", "--", "sh", "-c", "echo $SAMEPAGE_VOUCH")
        self.assertEqual((status, out, err), (0, "\n", ""))

    def test_forbidden(self):
        forbid = f"""echo 0 > /proc/sys/user/max_user_namespaces &&
            exec setpriv --bounding-set -all --inh-caps -all {SAMEPAGE} run --ksm-files -- true"""
        p = self.samepage("-Ur", "sh", "-c", forbid, program="unshare")
        self.assertEqual(p[0], 125, p[2])
        self.assertIn("--ksm-files: cannot make a user namespace", p[2])
        self.assertIn("max_user_namespaces", p[2])

    @unittest.skipIf(os.stat("/dev/fuse").st_mode & 0o006, "here every user may open /dev/fuse")
    def test_without_fuse(self):
        status, out, err = self.samepage_of_nobody("run", "--ksm-files", "--", "true", env={"XDG_RUNTIME_DIR": "/tmp"})
        if "userfaultfd" not in err:
            self.assertIn("/dev/fuse: Permission denied", err)
        self.assertEqual((status, out), (125, ""))


@unittest.skipIf(os.geteuid() or not os.path.exists("/dev/fuse"), "needs root and /dev/fuse")
class Hostile(Case):
    """What comes as a descriptor of /dev/fuse may be anything; the daemon neither waits for it nor falls."""

    @staticmethod
    def request():
        with open(HEADER, encoding="ascii") as f:
            version = int(re.search(r"SP_WIRE_VERSION (\d+)", f.read())[1])
        return struct.pack("=IHHII", 0x47504D53, version, 11, 16, 1)

    def hand_over(self, user, mounts, times):
        """By such a user, in namespaces of theirs; returns the results, and the process that keeps the mounts."""
        devices = tempfile.mkdtemp(dir=self.runtime)
        p = self.popen("-m", "sh", "-c", AS_USER, "sh", devices, "unshare", "-Urm", "/usr/bin/python3", "-c", HANDER,
                       self.socket_path, self.request().hex(), str(mounts), str(times), program="unshare",
                       env={**self.environment, "SP_TEST_USER": str(user)}, stdin=subprocess.PIPE)
        line = p.stdout.readline()
        if not line:
            err = p.communicate()[1]
            if p.returncode == 77:
                self.skipTest(err)
            self.fail(err)
        return [int(result) for result in line.split()], p

    def open_daemon(self):
        os.chmod(self.runtime, 0o755)
        self.socket_path = self.daemon()
        os.chmod(self.socket_path, 0o666)

    def pass_on(self, socket_path, fd):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.connect(socket_path)
            s.settimeout(60)
            s.sendmsg([self.request()],
                      [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
            answer = s.recv(4096)
        self.assertEqual(struct.unpack_from("=IHH", answer)[2], 34)  # RESULT
        return struct.unpack_from("=i", answer, 16)[0]

    def test_descriptors(self):
        socket_path = self.daemon()
        unmounted, waiting = os.open("/dev/fuse", os.O_RDWR), os.open("/dev/fuse", os.O_RDWR)
        try:
            fcntl.ioctl(waiting, FUSE_DEV_IOC_SYNC_INIT)
        except OSError:
            pass  # a kernel before 6.18, where nothing waits
        pair = socket.socketpair()
        memfd = os.memfd_create("fuse_connection: 1")
        for fd in (unmounted, waiting, pair[0].fileno(), memfd, os.open("/", os.O_RDONLY | os.O_CLOEXEC)):
            self.assertLess(self.pass_on(socket_path, fd), 0)
        self.assertEqual(self.samepage("get", "--socket", socket_path, "run"), (0, "1\n", ""))
        pair[0].close()
        pair[1].close()

    def test_one_mount_often(self):
        """A connection is good for one mount, so that handing it over again takes no room."""
        self.open_daemon()
        self.assertEqual(self.hand_over(USER, 1, 3)[0], [0, -errno.EBUSY, -errno.EBUSY])

    def test_room_for_root(self):
        """Four users take all there is for users; root has room."""
        self.open_daemon()
        for user in range(USER, USER + 4):
            self.assertEqual(self.hand_over(user, 32, 1)[0], [0] * 32)
        self.assertEqual(self.hand_over(USER + 4, 1, 1)[0], [-errno.EUSERS])
        result = self.samepage("run", "--ksm-files", "--socket", self.socket_path, "--", "cat", f"{KERNEL}/run")
        self.assertEqual(result, (0, "1\n", ""))

    def test_too_many(self):
        """The 33rd of a user is refused; when others have ended there is room again."""
        directory = tempfile.mkdtemp(prefix="sp-cli-")
        self.addCleanup(shutil.rmtree, directory, True)
        os.chmod(directory, 0o755)
        for path in (SAMEPAGE, SAMEPAGED, PRELOAD):
            os.chmod(shutil.copy(path, directory), 0o755)
        os.mkdir(f"{directory}/devices")
        os.chmod(self.runtime, 0o755)
        socket_path = self.daemon()
        os.chmod(socket_path, 0o666)
        script = f"""one() {{ {directory}/samepage run --ksm-files --socket {socket_path} -- "$@"; }}
            mkfifo "$1/fifo" && exec 8<>"$1/fifo"
            for i in $(seq 32); do one sh -c 'echo ready; read x <&8' & done > "$1/ready"
            while [ $(wc -l < "$1/ready") != 32 ]; do sleep 0.05; done
            one true; echo $?
            for i in $(seq 32); do echo >&8; done
            wait
            until one true 2>/dev/null; do sleep 0.05; done; echo done"""
        work = f"{self.runtime}/work"
        os.mkdir(work)
        os.chown(work, USER, USER)
        result = self.samepage("-m", "sh", "-c", AS_USER, "sh", f"{directory}/devices", "sh", "-c", script, "sh", work,
                               program="unshare")
        if result[0] == 77:
            self.skipTest(result[2])
        self.assertEqual((result[0], result[1]), (0, "125\ndone\n"), result[2])
        self.assertIn("too many", result[2])


if __name__ == "__main__":
    tap.main()
