#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""How much we work: the CPU budget, the advisor and memory pressure, on programs that write all the time.

SAMEPAGE_BUDGET_SECONDS=60 has the budget watched for a minute instead of some seconds."""

import json
import os
import time
import unittest

import tap
from cli_helper import Case, wait_until

PYTHON = "/usr/bin/python3"
CLIENTS = 10
SECONDS = int(os.environ.get("SAMEPAGE_BUDGET_SECONDS", "6"))

# Memory with content that changes all the time, for all programs to the same. It is new each time: what was merged
# and written stays private (H13).
WRITER = """
import mmap, random, sys, time
size, pause = int(sys.argv[1]) << 20, float(sys.argv[2])
contents = [random.Random(i).randbytes(1 << 20) for i in range(2)]
m = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
m.madvise(mmap.MADV_MERGEABLE)
i = 0
while True:
    m.madvise(mmap.MADV_DONTNEED)
    for at in range(0, size, 1 << 20):
        m[at:at + (1 << 20)] = contents[i % 2]
    i += 1
    time.sleep(pause)
"""


def worker_ns(pid):
    """CPU time of the process's threads that are workers of ours, by the kernel's account."""
    total = 0
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/comm", encoding="ascii") as f:
            if f.read().strip() == "samepage":
                with open(f"/proc/{pid}/task/{tid}/schedstat", encoding="ascii") as stat:
                    total += int(stat.read().split()[0])
    return total


def resident(pid):
    with open(f"/proc/{pid}/statm", encoding="ascii") as f:
        return int(f.read().split()[1]) * 4096


class Policy(Case):
    def setUp(self):
        super().setUp()
        self.programs = []

    def begin(self, *words):
        self.socket = self.daemon(None, *words)

    def writers(self, n, mib=16, pause=0.1):
        self.programs += [self.popen("run", "--advised", "--socket", self.socket, "--", PYTHON, "-c", WRITER, str(mib),
                                     str(pause)) for _ in range(n)]
        wait_until(lambda: len(self.status()["domains"] and self.status()["domains"][0]["clients"]) >= len(self.programs),
                   "all have joined")

    def status(self):
        return json.loads(self.samepage("status", "--json", "--socket", self.socket)[1])["daemons"][0]

    def get(self, key):
        status, out, err = self.samepage("get", "--socket", self.socket, key)
        self.assertEqual((status, err), (0, ""))
        return int(out)

    def set_to(self, *words):
        self.assertEqual(self.samepage("set", "--socket", self.socket, *words), (0, "", ""))

    def used_s(self):
        """By all workers and the daemon."""
        with open(f"/proc/{self.daemon_process.pid}/schedstat", encoding="ascii") as f:
            daemon = int(f.read().split()[0])
        return (daemon + sum(worker_ns(p.pid) for p in self.programs)) / 1e9

    def used_in(self, seconds):
        before, since = self.used_s(), time.monotonic()
        time.sleep(seconds)
        return self.used_s() - before, time.monotonic() - since


class Budget(Policy):
    def test_it_holds(self):
        percent = 5
        self.begin("--set", "sleep_millisecs=5,sleep_max_millisecs=20")
        self.writers(CLIENTS)
        begun = self.used_s()
        wait_until(lambda: self.used_s() - begun > 1, "more than the budget allows")
        self.set_to(f"advisor_max_cpu={percent}")
        scanned = self.get("pages_scanned")
        used, seconds = self.used_in(SECONDS)
        # What may wait and what comes in (core/budget.h), and a second in which clients had not heard of it.
        allowed = percent / 100 * min(5 + 0.9 * seconds, seconds if seconds >= 60 else 1e9)
        print(f"# {used:.2f} CPU-seconds in {seconds:.1f} s, {100 * used / seconds:.2f} %; allowed {allowed:.2f}", flush=True)
        self.assertLessEqual(used, allowed + (0.1 if seconds < 60 else 0))
        wait_until(lambda: self.get("pages_scanned") > scanned, "work goes on")
        self.set_to("advisor_max_cpu=70")  # as it was: no bound without the advisor
        begun = self.used_s()
        wait_until(lambda: self.used_s() - begun > 1, "no bound any more")


    def test_much_memory_and_little_budget(self):
        """A pass over all of it takes three times what may be used in the time; here it is cut."""
        self.begin("--set", "sleep_millisecs=5,sleep_max_millisecs=20,advisor_max_cpu=1,run=0")
        self.writers(2, mib=768, pause=1000)
        wait_until(lambda: all(resident(p.pid) > 768 << 20 for p in self.programs), "the memory is there")
        begun, since = self.used_s(), time.monotonic()
        self.set_to("run=1")
        wait_until(lambda: self.get("pages_scanned") > 1000, "something is read")
        time.sleep(3)
        used, seconds = self.used_s() - begun, time.monotonic() - since
        print(f"# {used:.3f} CPU-seconds, {self.get('pages_scanned')} pages", flush=True)
        self.assertLessEqual(used, 0.01 * (5 + 0.9 * seconds) + 0.05)


class Advisor(Policy):
    def test_pages_follow_the_time_of_scans(self):
        """32,768 pages, of which the least advice allows 5,000 in a second: the first scan takes too long."""
        self.begin("--set", "sleep_millisecs=20,sleep_max_millisecs=20,pages_to_scan=77,advisor_target_scan_time=1,"
                            "advisor_min_pages_to_scan=100,advisor_max_pages_to_scan=150")
        self.assertEqual(self.get("pages_to_scan"), 77)
        self.set_to("advisor_mode=scan-time")
        self.assertEqual(self.get("pages_to_scan"), 100)
        since = time.monotonic()
        self.writers(2, mib=64, pause=1000)
        wait_until(lambda: self.get("pages_to_scan") == 150, "more pages, as scans take too long")
        self.assertLessEqual(self.get("pages_scanned"), 150 * 50 * (time.monotonic() - since))
        status, _, err = self.samepage("set", "--socket", self.socket, "pages_to_scan=5")
        self.assertEqual(status, 1)
        self.assertIn("pages_to_scan is the advisor's", err)
        self.set_to("advisor_target_scan_time=1000")
        wait_until(lambda: self.get("pages_to_scan") == 100, "fewer pages, as scans may take long")
        self.set_to("advisor_mode=none")
        self.assertEqual(self.get("pages_to_scan"), 77)


# Writes the file itself: what is in the page cache is charged to whoever brought it there.
THRASH = """
import mmap, os, sys
with open(sys.argv[1], "w+b") as f:
    for _ in range(64):
        f.write(os.urandom(1 << 20))
    f.flush()
    os.fsync(f.fileno())
    m = mmap.mmap(f.fileno(), 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
while True:
    for i in range(0, len(m), 4096):
        m[i]
"""

# The memory controller, and the directory of cgroup v2, whose groups have a memory.pressure.
CGROUPS = (("/sys/fs/cgroup", "/sys/fs/cgroup", "memory.max"),
           ("/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified", "memory.limit_in_bytes"))


class Pressure(Policy):
    def group(self, base, name):
        path = f"{base}/{name}"
        os.mkdir(path)

        def remove():
            wait_until(lambda: not open(f"{path}/cgroup.procs", encoding="ascii").read(), "an empty cgroup")
            os.rmdir(path)
        self.addCleanup(remove)
        return path

    def test_by_a_cgroup(self):
        """A program that reads more than its memory cgroup has room for."""
        found = [c for c in CGROUPS if os.path.exists(f"{c[1]}/memory.pressure") or
                 (os.path.exists(f"{c[1]}/cgroup.controllers") and c[0] == c[1])]
        found = [c for c in found if os.access(c[0], os.W_OK) and os.access(c[1], os.W_OK)]
        if os.geteuid() or not found:
            self.skipTest("no cgroups that we may make, with memory pressure")
        memory, unified, limit = found[0]
        name = os.path.basename(self.runtime)
        groups = [self.group(unified, name)] + ([self.group(memory, name)] if memory != unified else [])
        try:
            with open(f"{groups[-1]}/{limit}", "w", encoding="ascii") as f:
                f.write(str(16 << 20))
        except OSError as e:
            self.skipTest(f"memory cannot be limited: {e}")

        def thrash(path):
            # It begins when it is in the group.
            p = self.popen("-c", "read line; exec " + PYTHON + ' -c "$0" "$1"', THRASH, path, program="/bin/sh",
                           stdin=-1)
            for group in groups:
                with open(f"{group}/cgroup.procs", "w", encoding="ascii") as f:
                    f.write(str(p.pid))
            p.stdin.write("\n")
            p.stdin.flush()
        self.begin("--set", "sleep_millisecs=5,sleep_max_millisecs=20", "--pressure-file", f"{groups[0]}/memory.pressure")
        self.writers(4, mib=32)
        self.set_to("lazy_max_cpu=1")
        used, seconds = self.used_in(3)
        self.assertLessEqual(used, 0.01 * (5 + 0.9 * seconds) + 0.2)
        begun, until = self.used_s(), 0
        for i in range(400):
            # One in some never thrashes: what it has read was charged to somebody else, and stays.
            if time.monotonic() > until:
                thrash(f"{self.runtime}/much{i}")
                until = time.monotonic() + 15
            if self.used_s() - begun > 1:
                return
            time.sleep(0.2)
        self.fail("never keen under pressure")


if __name__ == "__main__":
    tap.main()
