#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""bench/profile.py: what it makes of samples, as perf has written them, and of wrong words; and one profile, where perf
may be used here. No figure of time is looked at."""

import contextlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

import tap
from cli_helper import BUILD

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../bench/profile.py")
sys.dont_write_bytecode = True

# Recorded with Linux 6.18. Of one sample perf tells no functions.
RECORDED = """\
samepage
    ffffffff8169c7c9 move_pages
    ffffffff81736551 userfaultfd_ioctl
    ffffffff816d6d2b __x64_sys_ioctl
    ffffffff821ecc51 do_syscall_64
    ffffffff81000130 entry_SYSCALL_64_after_hwframe
               2a249 sp_uffd_move

samepage
    ffffffff81772065 do_pagemap_scan
    ffffffff816d6d2b __x64_sys_ioctl
    ffffffff821ecc51 do_syscall_64
    ffffffff81000130 entry_SYSCALL_64_after_hwframe
               25200 sp_pagemap_scan
    3764346564376165 [unknown]

samepage
    ffffffff816d6c90 __x64_sys_ioctl
    ffffffff821ecc51 do_syscall_64
    ffffffff81000130 entry_SYSCALL_64_after_hwframe
                e1d0 sp_maps_file

samepage
    ffffffff821f26e7 exc_page_fault
    ffffffff81000c82 asm_exc_page_fault
               1861e sp_worker_main

samepage
    ffffffff821ecc26 do_syscall_64
    ffffffff81000130 entry_SYSCALL_64_after_hwframe
               10db1 receive_now

samepage
               10b8d sp_bits_next
    fedf23f2d27da9e8 [unknown]

samepage
               10b8d sp_bits_next

samepaged
    ffffffff815b1c8e shmem_write_end
    ffffffff8158a3fa generic_perform_write
    ffffffff815aff26 shmem_file_write_iter
    ffffffff816b8caf vfs_write
    ffffffff816b9563 __x64_sys_pwrite64
    ffffffff821ecc51 do_syscall_64
    ffffffff81000130 entry_SYSCALL_64_after_hwframe
               1cefb sp_segment_write_many
           900020318 [unknown]

samepaged

swapper
    ffffffff821f236b pv_native_safe_halt
    ffffffff821f3e75 default_idle
"""


def loaded():
    """Under a name that is not one of the library's own modules."""
    spec = importlib.util.spec_from_file_location("bench_profile", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(text):
    """(who, what): us/page of each row."""
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    return {(who, what): float(us) for who, what, us in cells}


def profile(*words, **options):
    return subprocess.run([sys.executable, PROGRAM, *words], capture_output=True, text=True, timeout=300, check=False,
                          **options)


class Table(unittest.TestCase):
    def table(self, text, pages, least_us):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            any_of_ours = loaded().table(text, pages, least_us)
        return any_of_ours, rows(out.getvalue())

    def test_what_a_sample_works_for(self):
        """A sample is 100 us: by ten pages 10 each."""
        any_of_ours, got = self.table(RECORDED, 10, 0.01)
        self.assertTrue(any_of_ours)
        self.assertEqual(got, {
            ("worker", "UFFDIO_MOVE"): 10, ("worker", "PAGEMAP_SCAN"): 10, ("worker", "ioctl"): 10,
            ("worker", "page faults"): 10, ("worker", "entering and leaving the kernel"): 10,
            ("worker", "`sp_bits_next`"): 20, ("daemon", "pwrite64"): 10, ("daemon", "?"): 10,
            ("", "all that is below 0.01"): 0, ("", "sum"): 90})

    def test_small_rows_are_put_together(self):
        _, got = self.table(RECORDED, 10, 15)
        self.assertEqual(got, {("worker", "`sp_bits_next`"): 20, ("", "all that is below 15"): 70, ("", "sum"): 90})

    def test_nothing_of_ours(self):
        any_of_ours, got = self.table(RECORDED.replace("samepage", "redis"), 10, 0.01)
        self.assertFalse(any_of_ours)
        self.assertEqual(got["", "sum"], 0)


class Command(unittest.TestCase):
    def test_help(self):
        p = profile("--help")
        self.assertEqual((p.returncode, p.stderr), (0, ""))
        self.assertIn("--pages", p.stdout)

    def test_wrong_usage(self):
        for words, text in ((["--", "true"], "required: --pages"), (["--pages", "0", "--", "true"], "at least 1"),
                            (["--pages", "x", "--", "true"], "invalid int value"), (["--pages", "1"], "COMMAND")):
            p = profile(*words)
            self.assertEqual((p.returncode, p.stdout), (2, ""), p.stderr)
            self.assertIn(text, p.stderr)

    def test_without_perf(self):
        p = profile("--pages", "1", "--", "true", env={"PATH": "/nonexistent"})
        self.assertEqual((p.returncode, p.stdout), (1, ""), p.stderr)
        self.assertIn("perf is missing (Debian: linux-perf)", p.stderr)


class Recorded(unittest.TestCase):
    """For this alone tools/setup installs no perf: libpython and libperl come along with it."""

    def setUp(self):
        if not shutil.which("perf"):
            self.skipTest("there is no perf here (Debian: linux-perf)")
        with tempfile.TemporaryDirectory() as directory:
            p = subprocess.run(["perf", "record", "-q", "-e", "cpu-clock", "-a", "-g", "-o", f"{directory}/data", "true"],
                               capture_output=True, text=True, timeout=60, check=False)
        if p.returncode:
            self.skipTest("perf may not be used here: " + " ".join(p.stderr.split()).partition(". ")[0])

    def test_a_benchmark(self):
        p = profile("--pages", "8192", "--", sys.executable, f"{BUILD}/bench/run.py", "same", "--tiny", "--only",
                    "samepage")
        self.assertEqual(p.returncode, 0, p.stderr)
        got = rows(p.stdout)
        self.assertIn("worker", {who for who, _ in got})
        total = got.pop(("", "sum"))
        self.assertGreater(total, 0)
        self.assertAlmostEqual(sum(got.values()), total, delta=0.001 * len(got))

    def test_the_command_fails(self):
        p = profile("--pages", "1", "--", "false")
        self.assertEqual((p.returncode, p.stdout), (1, ""))
        self.assertIn("ended with status 1", p.stderr)


if __name__ == "__main__":
    tap.main()
