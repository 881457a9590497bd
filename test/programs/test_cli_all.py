#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""`samepage run --all`: memory that nobody advised is shared, by every descendant, and nothing else changes."""

import os
import sys
import unittest

import tap
from cli_helper import NOBODY, PRELOAD, Case, wait_until

PYTHON = "/usr/bin/python3"

# Maps memory with the content that others have, never advised; then says so, and checks it when told to.
HOLDER = """
import mmap, random, sys
data = random.Random(1).randbytes(1 << 20) * 4
m = mmap.mmap(-1, len(data), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
m.write(data)
print("loaded", flush=True)
sys.stdin.readline()
print(m[:] == data, flush=True)
"""


def shared_bytes(pid):
    """How much of the process lies in mappings of a store."""
    total = 0
    try:
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as f:
            for line in f:
                if "/memfd:samepage (" in line and "rw-p" in line:
                    start, end = (int(x, 16) for x in line.split()[0].split("-"))
                    total += end - start
    except FileNotFoundError:
        pass
    return total


def registered_count(pid):
    """Mappings that are registered with a userfaultfd (write-protect mode): watched by a worker."""
    with open(f"/proc/{pid}/smaps", encoding="utf-8", errors="replace") as f:
        return sum(line.startswith("VmFlags:") and " uw" in line for line in f)


class All(Case):
    def setUp(self):
        super().setUp()
        self.socket = self.daemon(None, "--set", "sleep_millisecs=5,sleep_max_millisecs=20")

    def holder(self, *words, script=HOLDER, command=(PYTHON, "-c")):
        p = self.popen("run", "--socket", self.socket, *words, "--", *command, script, stdin=-1)
        self.assertEqual(p.stdout.readline(), "loaded\n")
        return p

    def end(self, p, expected="True\n"):
        out, err = p.communicate("\n", timeout=60)
        self.assertEqual((p.returncode, out, err), (0, expected, ""))

    def test_shares_what_nobody_advised(self):
        p = self.holder("--all")
        wait_until(lambda: shared_bytes(p.pid) >= 4 << 20, "4 MiB shared")
        self.end(p)

    def test_advised_does_not(self):
        """The other one shares by then; this one has not so much as a worker."""
        advised, every = self.holder("--advised"), self.holder("--all")
        wait_until(lambda: shared_bytes(every.pid) >= 4 << 20, "4 MiB shared")
        self.assertEqual((shared_bytes(advised.pid), registered_count(advised.pid)), (0, 0))
        self.assertEqual(len(os.listdir(f"/proc/{advised.pid}/task")), 1)
        self.end(advised)
        self.end(every)

    def test_environment_chooses_and_options_win(self):
        self.set(SAMEPAGE_SCOPE="all")
        every, advised = self.holder(), self.holder("--advised")
        wait_until(lambda: shared_bytes(every.pid) >= 4 << 20, "4 MiB shared")
        self.assertEqual(registered_count(advised.pid), 0)
        self.end(every)
        self.end(advised)

    def test_wrong_environment(self):
        for text in ("most", "ALL", "all "):
            self.set(SAMEPAGE_SCOPE=text)
            self.assertFailure(self.samepage("run", "--socket", self.socket, "--", "true"), 125, "SAMEPAGE_SCOPE",
                               "'all'", "'advised'")

    def test_small_programs_have_no_worker(self):
        status, out, err = self.samepage("run", "--socket", self.socket, "--all", "--", "/bin/sh", "-c",
                                         "ls /proc/self/task | wc -l")
        self.assertEqual((status, out.strip(), err), (0, "1", ""))

    def test_exec_and_fork_inherit(self):
        """A shell executes a program, which forks; both halves map memory then."""
        script = "import os\nchild = os.fork()\nprint(os.getpid(), flush=True)\n" + HOLDER.replace(
            "sys.stdin.readline()", """
import time
go_on = (lambda: not sys.stdin.readline()) if child else (lambda: os.getppid() != 1 and not os.path.exists(STOP))
while go_on():
    time.sleep(0.02)
    mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
if not child:
    os._exit(m[:] != data)
open(STOP, "w").close()
print(os.waitpid(child, 0)[1])
""".replace("STOP", repr(self.runtime + "/stop")))
        p = self.popen("run", "--socket", self.socket, "--all", "--", "/bin/sh", "-c", f'{PYTHON} -c "$0"; exit $?',
                       script, stdin=-1)
        pids = {int(line) for line in (p.stdout.readline() for _ in range(4)) if line != "loaded\n"}
        self.assertEqual(len(pids), 2)
        for pid in pids:
            wait_until(lambda pid=pid: shared_bytes(pid) >= 4 << 20, "both share")
        self.end(p, "0\nTrue\n")

    @unittest.skipIf(os.getuid(), "only root can become somebody else")
    def test_worker_gives_up_what_the_program_does(self):
        """The worker is no thread that the C library knows of: setgroups, setgid and setuid must take it along."""
        script = HOLDER.replace("sys.stdin.readline()", f"""
import glob, os
sys.stdin.readline()
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
def ids(task):
    lines = open(task + "/status").read().splitlines()
    return [l.split()[1:] for l in lines if l.startswith(("Uid:", "Gid:", "Groups:"))]
tasks = glob.glob("/proc/self/task/*")
print(len(tasks), all(ids(t) == [["{NOBODY}"] * 4, ["{NOBODY}"] * 4, []] for t in tasks))
""")
        p = self.holder("--all", script=script)
        wait_until(lambda: shared_bytes(p.pid) >= 4 << 20, "4 MiB shared")
        self.end(p, "2 True\nTrue\n")

    def test_unadvised_calls_are_respected(self):
        """prctl(PR_SET_MEMORY_MERGE, 0) after 1, and MADV_UNMERGEABLE: the program knows better."""
        script = HOLDER.replace('print("loaded"', 'm.madvise(13)\nprint("loaded"')
        p, every = self.holder("--all", script=script), self.holder("--all")
        wait_until(lambda: shared_bytes(every.pid) >= 4 << 20, "4 MiB shared")
        self.assertLess(shared_bytes(p.pid), 4 << 20)
        self.end(p)
        self.end(every)


if __name__ == "__main__":
    tap.main(sys.argv[1:])
