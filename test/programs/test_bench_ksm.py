#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The benchmark beside the kernel's KSM: some workloads in a tiny size, and that every setting of the
machine is put back, however it ends. Alone, as it changes what is the whole machine's."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import unittest

import tap
from test_bench import BENCH, Directory, bench

from lib import machine, settings, workloads

WATCHED = [settings.KSM + n for n in ("run", "pages_to_scan", "sleep_millisecs", "advisor_mode", "use_zero_pages")]
WATCHED += [settings.MAX_MAP_COUNT, settings.HUGE_PAGES]
REFUSED = settings.ksm_refusal()


def state():
    return {path: settings.value(path) for path in WATCHED if os.path.exists(path)}


def running(pid):
    with contextlib.suppress(OSError):
        return machine.read(f"/proc/{pid}/stat").rpartition(")")[2].split()[0] not in "ZX"
    return False


@unittest.skipIf(REFUSED, REFUSED)
class Ksm(Directory):
    def setUp(self):
        super().setUp()
        self.before = state()

    def tearDown(self):
        self.assertEqual(state(), self.before)

    def measured(self, *words):
        p = bench("--tiny", "--no-gate", *words)
        self.assertEqual(p.returncode, 0, p.stdout + p.stderr)
        return p.stdout

    def test_workloads(self):
        for name in ("same", "writers-1000", "python", "victim-random"):
            with self.subTest(name):
                out = self.measured(name)
                sides = workloads.TABLE[name].sides
                self.assertEqual(out.count("all data intact"), len(sides), out)
                self.assertIn(": met" if ": met" in out else ": MISSED", out)

    def test_other_settings(self):
        out = self.measured("--also", "ksm-defaults", "--only", "ksm-defaults", "--limit", "0.3", "--mib", "32", "same")
        self.assertRegex(out, r"time to 99 %, s +never: \d+\.\d % saved")


@unittest.skipIf(REFUSED, REFUSED)
class PutBack(unittest.TestCase):
    """KSM is at its defaults, which takes minutes, and vm.max_map_count is raised, when the end comes. What was found
    is neither, and nothing that the end of a workload leaves by itself."""

    FOUND = {"run": "0", "pages_to_scan": "123", "sleep_millisecs": "77"}

    def setUp(self):
        for name, value in self.FOUND.items():
            path = settings.KSM + name
            self.addCleanup(settings.write, path, settings.value(path))
            settings.write(path, value)

    def ended(self, *signals, until_gone=False):
        """The exit status after those signals; `until_gone`: again and again."""
        before = state()
        p = subprocess.Popen([sys.executable, f"{BENCH}/run.py", "--tiny", "--mib", "64", "--also", "ksm-defaults",
                              "--only", "ksm-defaults", "--limit", "600", "shuffled"],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.addCleanup(p.communicate)
        self.addCleanup(p.kill)
        deadline = time.monotonic() + 120
        while (settings.value(settings.KSM + "run") != "1" or
               len([pid for pid in machine.descendants([p.pid]) if "poll" in machine.read(f"/proc/{pid}/comm")]) < 1):
            self.assertIsNone(p.poll())
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)
        self.assertNotEqual(settings.value(settings.MAX_MAP_COUNT), before[settings.MAX_MAP_COUNT])
        children = machine.descendants([p.pid]) - {p.pid}
        self.assertGreaterEqual(len(children), 5)
        for s in signals:
            p.send_signal(s)
        while until_gone and p.poll() is None:
            p.send_signal(signals[0])
            time.sleep(0.002)
        p.wait(120)
        self.assertEqual(state(), before)
        self.assertEqual([pid for pid in children if running(pid)], [])
        return p.returncode

    def test_sigint(self):
        self.assertEqual(self.ended(signal.SIGINT), 128 + signal.SIGINT)

    def test_sigterm(self):
        self.assertEqual(self.ended(signal.SIGTERM), 128 + signal.SIGTERM)

    def test_sighup_and_more(self):
        self.assertIn(self.ended(signal.SIGHUP, signal.SIGTERM, signal.SIGINT),
                      [128 + s for s in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)])

    def test_impatience(self):
        self.assertEqual(self.ended(signal.SIGINT, until_gone=True), 128 + signal.SIGINT)


if __name__ == "__main__":
    tap.main()
