#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The hazards that only a whole program meets, end to end: real programs, the real shim, a real daemon.

    hazards.py PROGRAM SHIM SAMEPAGED [Class.case...]

Each case says which hazard of docs/hazards.md it is about. TAP on standard output.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]

import tap
from core_file import PAGE, CoreFile, page_content

PROGRAM, SHIM, SAMEPAGED = (os.path.abspath(p) for p in sys.argv[1:4])
DIRECTORIES = "/var/tmp"  # not /tmp: where that is a tmpfs there are no direct reads
SAMEPAGE = os.path.join(os.path.dirname(SAMEPAGED), "samepage")
WAIT_S = 180  # for what will happen; no case is about how long it takes
CORE_PATTERN = "/proc/sys/kernel/core_pattern"
NOBODY = 65534
# Also what is written all the time: that is what most of these scenes do.
FAST = "sleep_millisecs=5,sleep_max_millisecs=20,smart_scan=0"


def wait_until(condition, what):
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.005)
    raise AssertionError("never happened: " + what)


def become_nobody():
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def allow_core():
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


class Case(unittest.TestCase):
    """A directory and a daemon for each case."""

    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="sp-hazards-", dir=DIRECTORIES)
        os.chmod(self.directory, 0o755)
        self.addCleanup(shutil.rmtree, self.directory, True)
        self.socket = self.directory + "/socket"
        self.daemon = None

    def daemon_start(self, settings=FAST, **options):
        read, write = os.pipe()
        options.setdefault("stderr", subprocess.DEVNULL)
        self.daemon = subprocess.Popen(
            [SAMEPAGED, "--socket", self.socket, "--set", settings, "--ready-fd", str(write)],
            pass_fds=[write], **options)
        self.addCleanup(self.end, self.daemon)
        os.close(write)
        ready = os.read(read, 1)
        os.close(read)
        self.assertEqual(len(ready), 1, "samepaged did not start")

    def daemon_kill(self):
        self.daemon.kill()
        self.daemon.wait()

    @staticmethod
    def end(p):
        if p.poll() is None:
            p.kill()
        for stream in (p.stdin, p.stdout, p.stderr):
            if stream:
                stream.close()
        p.wait()

    def start(self, *words, settings="worker_start_kbytes=0", **options):
        environment = dict(os.environ, LD_PRELOAD=SHIM, SAMEPAGE_SOCKET=self.socket, SAMEPAGE_SET=settings,
                           SAMEPAGE_SCOPE="advised", SAMEPAGE_VERBOSE="1")
        p = subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True, **options)
        self.addCleanup(self.end, p)
        return p

    def finish(self, p, status=0):
        """Waits for the end; what the program told, as {key: value}."""
        out, err = p.communicate(timeout=WAIT_S)
        self.assertEqual((p.returncode, err), (status, ""), out)
        return self.told(out)

    @staticmethod
    def told(text):
        return {key: int(value) for key, value in (line.split() for line in text.splitlines())}

    def play(self, *words, **options):
        return self.finish(self.start(PROGRAM, *words, **options))

    def store_bytes(self):
        """Memory of the daemon's store."""
        total, directory = 0, f"/proc/{self.daemon.pid}/fd"
        seen = set()
        for name in os.listdir(directory):
            try:
                if os.readlink(f"{directory}/{name}").startswith("/memfd:samepage ("):
                    st = os.stat(f"{directory}/{name}")
                    total += 0 if st.st_ino in seen else st.st_blocks * 512
                    seen.add(st.st_ino)
            except FileNotFoundError:
                pass
        return total


class Process(Case):
    def core_pattern_set(self):
        try:
            with open(CORE_PATTERN, encoding="utf-8") as f:
                before = f.read()
            with open(CORE_PATTERN, "w", encoding="utf-8") as f:
                f.write(self.directory + "/core.%p")
        except OSError as e:
            self.skipTest(f"{CORE_PATTERN}: {e.strerror}")
        self.addCleanup(self.core_pattern_put_back, before)

    @staticmethod
    def core_pattern_put_back(before):
        with open(CORE_PATTERN, "w", encoding="utf-8") as f:
            f.write(before)

    def test_core_dump_has_merged_memory(self):
        """H8, with the coredump_filter that every process begins with; H7: DONTDUMP is carried over."""
        self.core_pattern_set()
        self.daemon_start()
        p = self.start(PROGRAM, "dump", preexec_fn=allow_core)
        told = self.finish(p, -signal.SIGABRT)
        core = CoreFile(f"{self.directory}/core.{p.pid}")
        self.addCleanup(core.close)
        pages = told["pages"]
        wrong = [i for i in range(pages)
                 if core.page(told["shown"] + i * PAGE) != page_content(1 + i % (pages // 2))]
        self.assertEqual(len(wrong), 0, f"of {pages} pages; the first: {wrong[:5]}")
        hidden = [i for i in range(told["hidden_pages"]) if core.page(told["hidden"] + i * PAGE) is not None]
        self.assertEqual(len(hidden), 0, "memory excluded by MADV_DONTDUMP is in the dump")
        # Merged memory and ordinary private files; not the store behind it, a sparse file of 1 GiB.
        self.assertLess(os.stat(f"{self.directory}/core.{p.pid}").st_size, 256 << 20)

    def test_filter_that_kills_the_worker(self):
        """H19: SECCOMP_FILTER_FLAG_TSYNC by a raw system call while the worker sleeps."""
        self.daemon_start()
        told = self.play("filter")
        self.assertEqual(told.pop("threads_before"), 2)
        self.assertEqual(told, {"seccomp": 0, "threads_after": 1, "merged_after": 0, "bad": 0,
                                "bad_written": 0, "dontneed": 0, "munmap": 0})

    def test_thread_killed_while_it_holds_the_lock(self):
        """H19: nobody else could let go of the lock."""
        self.daemon_start()
        self.assertEqual(self.play("holder"), {"threads_more": 0, "bad": 0, "munmap": 0, "fork": 0})

    def test_refused_unmappings_keep_everything(self):
        """I8: references go back only when what they were for has gone."""
        self.daemon_start()
        told = self.play("refused")
        self.assertEqual(told, {"no_file": 1, "no_mapping_left": 64, "bad": 0})

    def test_descriptors_are_the_programs(self):
        """H9"""
        self.daemon_start()
        told = self.play("closefrom")
        self.assertEqual(told, {"appeared": 0, "close_range": 0, "files_wrong": 0, "bad": 0})

    def test_no_thread_before_it_is_worth_it(self):
        """H10. Afterwards there is a second thread, which goes when something needs a single one."""
        self.daemon_start()
        told = self.play("threads", settings=FAST)
        self.assertEqual(told, {"unadvised": 1, "little": 1, "unshare": 0, "much": 2, "unshare_late": 0,
                                "after": 1, "bad": 0})


class Family(Case):
    def test_grandchild_keeps_what_everybody_gave_back(self):
        """H6, with a member that was made where nobody could see it."""
        self.daemon_start()
        p = self.start(PROGRAM, "grandchild")
        self.assertEqual(p.stdout.readline(), "munmap 0\n")
        time.sleep(1)  # until the parent's references are back
        p.stdin.write("made\n")
        p.stdin.flush()
        self.assertEqual(p.stdout.readline(), "child 0\n")
        time.sleep(3)  # longer than the daemon's pause between two looks at the family
        held = self.store_bytes()
        p.stdin.write("go\n")
        p.stdin.flush()
        self.assertEqual(p.stdout.readline(), "bad 0\n")
        self.assertGreaterEqual(held, 8 << 20)
        wait_until(lambda: not self.store_bytes(), "the store gives back what nobody can map any more")
        self.finish_with_line(p)

    def finish_with_line(self, p):
        out, err = p.communicate("end\n", timeout=WAIT_S)
        self.assertEqual((p.returncode, out, err), (0, "", ""))

    def test_raw_clones_are_complete(self):
        """H3, as root."""
        self.clones()

    def test_raw_clones_of_nobody_are_complete(self):
        """H3 for an ordinary user: the daemon makes the call that needs a privilege."""
        self.clones(preexec_fn=become_nobody)

    def clones(self, **options):
        self.daemon_start()
        told = self.play("clones", **options)
        self.assertEqual((told["incomplete"], told["bad"]), (0, 0))
        self.assertEqual(told["merged_rounds"], 300)

    def test_mappings_are_bounded(self):
        """H4, H23: with 5 % of vm.max_map_count, and then with what is merged in long stretches."""
        with open("/proc/sys/vm/max_map_count", encoding="ascii") as f:
            allowed = int(f.read()) * 5 // 100
        self.daemon_start(FAST + ",map_percent=5")
        told = self.play("scattered")
        # The program's own few come and go between the worker's counts.
        self.assertLessEqual(told["scattered_mappings"], allowed + 64)
        self.assertGreater(told["scattered_mappings"], allowed // 2)
        self.assertGreater(told["scattered_merged"], allowed // 8)
        self.assertLessEqual(told["long_mappings"], 2 * told["long_windows"] + 8)
        self.assertEqual((told["child"], told["bad"], told["bad_long"]), (0, 0, 0))

    def test_python(self):
        """fork and multiprocessing of an interpreter, in its own words."""
        self.daemon_start()
        script = HERE + "/python_program.py"
        told = self.finish(self.start(sys.executable, "-B", script))
        self.assertEqual(told, {"forks_bad": 0, "pool_bad": 0, "bad": 0, "left": 0})


class RawCalls(Case):
    """H1: system calls that do not go through the C library. Nothing is lost, and merging ends for good."""

    def state(self, p):
        """What `samepage status` says about the program."""
        out = subprocess.run([SAMEPAGE, "status", "--json", "--socket", self.socket], check=True,
                             stdout=subprocess.PIPE).stdout
        domain, = json.loads(out)["daemons"][0]["domains"]
        states = [c["state"] for c in domain["clients"] if c["pid"] == p.pid]
        return states[0] if states else "not there"

    def play_raw(self, scene, tells):
        self.daemon_start()
        p = self.start(PROGRAM, scene)
        lines = [p.stdout.readline() for _ in range(tells)]
        state = self.state(p) if all(lines) else "ended"
        out, err = p.communicate("end\n", timeout=WAIT_S)
        told = self.told("".join(lines) + out)
        self.assertEqual((p.returncode, err, told.pop("bad", None)), (0, "", 0), told)
        self.assertEqual((told["merged_after"], told["threads"]), (0, 1))
        self.assertIn("system calls that samepage does not see", state)
        return told

    def test_mapped_over(self):
        self.assertEqual(self.play_raw("raw_replace", 4)["rounds"], 1)

    def test_unmapped(self):
        self.assertEqual(self.play_raw("raw_unmap", 4)["rounds"], 1)

    def test_moved(self):
        """I8: the store pages of what was moved are still in use."""
        self.play_raw("raw_move", 3)


class Device(Case):
    def test_direct_reads_and_writes(self):
        """O_DIRECT into and out of memory that is being merged."""
        self.daemon_start()
        told = self.play("direct", self.directory)
        self.assertGreater(told.pop("merged_meanwhile"), 0)
        self.assertEqual(set(told.values()), {0}, told)

    def test_registered_buffers(self):
        """H13: pages that io_uring has pinned."""
        self.daemon_start()
        told = self.play("fixed", self.directory)
        if "no_liburing" in told:
            self.skipTest("built without liburing")
        self.assertEqual(set(told.values()), {0}, told)


class DaemonGone(Case):
    """I7: killed at any moment, and another in its place."""

    def ask(self, p, *words):
        p.stdin.write(" ".join(str(w) for w in words) + "\n")
        p.stdin.flush()
        key, value = p.stdout.readline().split()
        self.assertEqual(key, words[0])
        return int(value)

    def merge_all(self, p, area, pages):
        wait_until(lambda: self.ask(p, "merged", area) == pages, "all of it is merged")

    def play_killed(self, **options):
        mib, pages = 16, 4096
        self.daemon_start()
        p = self.start(PROGRAM, "hold", **options)
        first = self.ask(p, "twins", 1, mib)
        self.merge_all(p, first, pages)
        unique = self.ask(p, "unique", 1000000, mib)
        time.sleep(0.5)  # until the index knows it
        self.daemon_kill()
        self.assertEqual(self.ask(p, "bad"), 0)
        self.assertEqual(self.ask(p, "merged", first), pages)
        self.daemon_start()
        # What was merged stays, what was known is known again: its twins are found.
        twin = self.ask(p, "unique", 1000000, mib)
        self.merge_all(p, twin, pages)
        self.merge_all(p, unique, pages)
        # What the former daemon gave must not be given back to this one, which counts in the same places.
        self.ask(p, "write", first, 9000000)
        time.sleep(0.5)
        for _ in range(3):
            self.assertEqual(self.ask(p, "bad"), 0)
            time.sleep(0.2)
        return p

    def test_killed_when_settled(self):
        self.play_killed()

    def test_killed_when_settled_for_nobody(self):
        self.play_killed(preexec_fn=become_nobody)

    def test_killed_while_merging(self):
        self.daemon_start()
        p = self.start(PROGRAM, "hold")
        mib, pages = 32, 8192
        for i in range(5):
            area = self.ask(p, "twins", 1 + 1000000 * i, mib)
            wait_until(lambda: self.ask(p, "merged", area) > i * pages // 8, "some of it is merged")
            self.daemon_kill()
            self.assertEqual(self.ask(p, "bad"), 0)
            self.daemon_start()
            # New twins: a page whose twin went into the former daemon's store is the only one of its kind.
            again = self.ask(p, "twins", 1 + 1000000 * i, mib)
            self.merge_all(p, again, pages)
            self.merge_all(p, area, pages)
            self.ask(p, "write", area, 500000000 + 1000000 * i)
            self.assertEqual(self.ask(p, "bad"), 0)
        p.stdin.close()
        self.assertEqual(p.wait(timeout=WAIT_S), 0)


class Limits(DaemonGone):
    """The daemon comes to the end of something: merging stops, and the programs do not notice."""

    test_killed_when_settled = test_killed_when_settled_for_nobody = test_killed_while_merging = None

    def twins_are_right(self, p, mib=32):
        """Some of them are merged; what is not stays right, and so does the rest."""
        area = self.ask(p, "twins", 1, mib)
        wait_until(lambda: self.ask(p, "merged", area) > 0, "some of it is merged")
        time.sleep(1)
        merged = self.ask(p, "merged", area)
        self.ask(p, "write", area, 5000000)
        self.assertEqual(self.ask(p, "bad"), 0)
        p.stdin.close()
        self.assertEqual(p.wait(timeout=WAIT_S), 0)
        return merged, mib * 256

    def test_store_is_full(self):
        self.daemon_start(FAST + ",store_max_mbytes=4")
        merged, pages = self.twins_are_right(self.start(PROGRAM, "hold"))
        self.assertLess(merged, pages)

    def test_disk_is_full_for_its_log(self):
        with open("/dev/full", "w", encoding="ascii") as full:
            self.daemon_start(stderr=full)
        merged, pages = self.twins_are_right(self.start(PROGRAM, "hold"))
        self.assertEqual(merged, pages)
        self.assertIsNone(self.daemon.poll())

    def test_memory_of_its_cgroup_ends(self):
        """The store is charged to the daemon (H14): the kernel kills it, and what is merged stays (I7)."""
        group = memory_cgroup(16 << 20)
        if not group:
            self.skipTest("no memory cgroup can be made here")
        self.addCleanup(lambda: wait_until(lambda: removed(group), "the group is empty"))
        self.daemon_start(preexec_fn=lambda: open(f"{group}/cgroup.procs", "w", encoding="ascii").write("0"))
        p = self.start(PROGRAM, "hold")
        self.ask(p, "twins", 1, 64)
        self.daemon.wait(timeout=WAIT_S)
        self.assertEqual(self.daemon.returncode, -signal.SIGKILL)
        self.assertEqual(self.ask(p, "bad"), 0)
        p.stdin.close()
        self.assertEqual(p.wait(timeout=WAIT_S), 0)


def removed(group):
    """A process that has just ended may still count."""
    try:
        os.rmdir(group)
    except OSError:
        return False
    return True


def memory_cgroup(limit):
    """A new one that may use so many bytes, of version 2 or 1; None: none could be made."""
    for top, file in (("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")):
        group = f"{top}/samepage-test-{os.getpid()}"
        if not os.path.exists(f"{top}/cgroup.procs"):
            continue
        try:
            os.mkdir(group)
        except OSError:
            continue
        try:
            with open(f"{group}/{file}", "w", encoding="ascii") as f:
                f.write(str(limit))
            return group
        except OSError:
            os.rmdir(group)
    return None


def copy_for_all(path, directory):
    """Ordinary users take part too, and the checkout may be where only root can go, such as /root."""
    os.chmod(directory, 0o755)
    copy = shutil.copy(path, directory)
    os.chmod(copy, 0o755)
    return copy


def terminated(*_):
    sys.exit("terminated")  # so that cleanups run


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, terminated)
    with tempfile.TemporaryDirectory(prefix="sp-hazards-", dir=DIRECTORIES) as public:
        PROGRAM, SHIM = (copy_for_all(path, public) for path in (PROGRAM, SHIM))
        tap.main(sys.argv[4:])
