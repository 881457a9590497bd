#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The benchmark: each workload once in a tiny size, under samepage, every byte checked by the workloads themselves;
what is kept of it; and `samepage bench`. Beside KSM: test_bench_ksm.py. No figure of time is looked at."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import types
import unittest
import xml.dom.minidom

import tap
from cli_helper import BUILD, SAMEPAGE, Case

BENCH = f"{BUILD}/bench"
sys.dont_write_bytecode = True
sys.path.insert(0, BENCH)
from lib import machine, report, settings, targets, unmodified, workloads  # noqa: E402

# What a run of each kind must tell under samepage.
FIGURES = {
    "merging": ("seconds", "cpu_seconds", "saved_share", "freeze_us", "mappings_added", "probe_us", "curve"),
    "steady": ("background_cpus",),
    "family": ("shared_share",),
    "unmodified": ("saved_pages", "charged_bytes", "curve"),
    "victims": ("settled_ops", "settled_p99", "sharing_ops"),
}


def bench(*words, program=(sys.executable, f"{BENCH}/run.py"), **options):
    return subprocess.run([*program, *words], capture_output=True, text=True, timeout=300, check=False, **options)


def guest_files():
    directory = f"{BUILD}/demo"
    return directory if os.path.exists(f"{directory}/expected.json") else None


class Directory(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="sp-bench-")
        self.addCleanup(shutil.rmtree, self.directory, True)


class Workloads(Directory):
    def measured(self, name, *words):
        path = f"{self.directory}/{name}.json"
        p = bench("--tiny", "--only", "samepage", "--json", path, *words, name)
        if "no huge pages" in p.stderr or "no transparent huge pages" in p.stderr:
            self.skipTest(p.stderr.strip())
        self.assertEqual(p.returncode, 0, p.stdout + p.stderr)
        self.assertIn("all data intact", p.stdout)
        with open(path, encoding="utf-8") as f:
            return json.load(f)["workloads"][name]["sides"]["samepage"]


def case(name):
    def test(self):
        w = workloads.TABLE[name]
        words = ["--guest-files", guest_files()] if guest_files() and name == "guests" else []
        if why := w.missing(type("Context", (), {"guest_files": guest_files()})):
            self.skipTest(why)
        [run] = self.measured(name, *words)
        for key in FIGURES[w.round.__module__.removeprefix("lib.")]:
            self.assertIsNotNone(run.get(key), key)
        if w.pattern and w.must_reach and "saved_share" in run:
            self.assertGreaterEqual(run["saved_share"], 0.99)

    return test


for workload in workloads.TABLE:
    setattr(Workloads, f"test_{workload.replace('-', '_')}", case(workload))


class Bytes(unittest.TestCase):
    """The programs that are measured look at every byte of theirs."""

    def started(self, *words):
        p = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.addCleanup(p.communicate)
        return p, p.stdout.readline().split()

    def answer(self, p, word):
        p.stdin.write(f"{word}\n")
        return p.stdout.readline().strip()

    def change(self, pid, address):
        with open(f"/proc/{pid}/mem", "r+b", buffering=0) as mem:
            mem.seek(address)
            byte = mem.read(1)
            mem.seek(address)
            mem.write(bytes([byte[0] ^ 1]))

    def test_workload(self):
        for pattern in ("same", "last", "zero", "shuffled", "huge-tenth"):
            for place in (0, 4095, 2 * 4096 + 1000, (1 << 20) - 1):
                p, [_, pid, address, pages] = self.started(f"{BENCH}/workload", pattern, "1", "1")
                self.assertEqual(int(pages), 256)
                self.assertEqual(self.answer(p, "check"), "ok")
                self.change(pid, int(address) + place)
                self.assertEqual(self.answer(p, "check"), "bad 1", (pattern, place))

    def test_what_was_written_is_expected(self):
        p, [_, pid, address, _] = self.started(f"{BENCH}/workload", "same", "1", "1", "8")
        self.assertEqual(self.answer(p, "write 100000"), "writing")
        while self.answer(p, "check") != "ok":
            pass  # it looks while pages are written
        n = int(self.answer(p, "written").split()[1])
        self.assertEqual(self.answer(p, "new"), "renewed")
        self.assertEqual(self.answer(p, "check"), "ok")
        self.change(pid, int(address) + (1 << 20))
        self.assertEqual(self.answer(p, "check"), "bad 1", n)

    def test_victim(self):
        p, [_, address, _] = self.started(f"{BENCH}/victim", "random", "1", "0.01")
        self.assertRegex(self.answer(p, "go"), r"steps \d+\.\d \d+ \d+ \d+ \d+$")
        self.assertEqual(self.answer(p, "check"), "ok")
        self.change(p.pid, int(address, 16) + 70000)
        self.assertEqual(self.answer(p, "check"), "bad 1")


class Charged(unittest.TestCase):
    def test_the_daemon_is(self):
        """Of unmodified programs what is charged is that of the programs and of who works for them."""
        with subprocess.Popen(["sleep", "1000"]) as daemon, subprocess.Popen(["sleep", "1000"]) as program:
            side, running = types.SimpleNamespace(pids=[daemon.pid]), types.SimpleNamespace(running=[program])
            try:
                self.assertEqual(unmodified.pids_of(side, running), {daemon.pid, program.pid})
                charged = [machine.charged_bytes([p.pid], None) for p in (daemon, program)]
                self.assertGreater(min(charged), 0)
            finally:
                daemon.kill()
                program.kill()


class Kept(Directory):
    def test_save(self):
        with open(f"{self.directory}/RESULTS.md", "w", encoding="utf-8") as f:
            f.write("old\n\n# The index: fingerprints beside two trees\n\nkept\n")
        for name in ("same", "zero"):
            p = bench("--tiny", "--only", "samepage", "--save", self.directory, name)
            self.assertEqual(p.returncode, 0, p.stderr)
        with open(f"{self.directory}/RESULTS.md", encoding="utf-8") as f:
            text = f.read()
        self.assertNotIn("old", text)
        for part in ("## same: 4 processes x 8 MiB", "## zero: ", "| time to 99 %, s |", "](charts/same.svg)", "Linux ",
                     "\n# The index: fingerprints beside two trees\n\nkept\n"):
            self.assertIn(part, text)
        for name in ("same", "zero"):
            picture = xml.dom.minidom.parse(f"{self.directory}/charts/{name}.svg")
            self.assertEqual(len(picture.getElementsByTagName("polyline")), 1)

    def test_verdicts(self):
        def sides(ours, theirs):
            return {"same": {"ksm": [{"seconds": theirs}], "samepage": [{"seconds": v} for v in ours]}}

        def verdict(results):
            return next((text, met) for _, text, met in targets.verdicts(results) if "time to 99 %" in text)

        self.assertEqual(verdict(sides([0.9, 0.2, 0.3], 1.2)),
                         ("same: time to 99 %, of KSM's: 0.250, target at most 0.250: met", True))
        text, met = verdict(sides([0.31], 1.2))
        self.assertTrue(text.endswith("MISSED") and not met, text)
        # A repetition that never got there is none that is left out.
        text, met = verdict(sides([0.1, None, 0.1], 1.2))
        self.assertTrue("no figure" in text and not met, text)

    def test_every_target_has_a_workload(self):
        self.assertLessEqual({t.workload for t in targets.TARGETS}, set(workloads.TABLE))
        self.assertEqual(report.merged("/nonexistent", {"zero": 1, "same": 2}), {"same": 2, "zero": 1})


class Command(Case):
    def test_options_are_those_of_the_program(self):
        _, ours, _ = self.samepage("help", "bench")
        ours = set(re.findall(r"^ .*--([\w-]+)", ours.partition("\n\nSettings")[0], re.M)) - {"help"}
        theirs = set(re.findall(r"--([\w-]+)", bench("--help").stdout))
        self.assertTrue(ours)
        self.assertLessEqual(ours, theirs)

    def test_wrong_usage(self):
        self.assertUsage(self.samepage("bench", "--lisst"), "did you mean '--list'?", "bench")
        for words, text in ((["same", "--repetitions", "0"], "at least 1"), (["sam"], "unknown workload 'sam'"),
                            (["--only", "x"], "invalid choice"),
                            (["--json", "/nonexistent/x"], "there is no directory")):
            status, out, err = self.samepage("bench", *words)
            self.assertEqual((status, out), (2, ""), err)
            self.assertIn(text, err)

    def test_without_python3(self):
        self.set(PATH="/nonexistent")
        self.assertFailure(self.samepage("bench", "--list"), 1, "python3 is needed", "apt-get install python3")

    def test_installed(self):
        """Moved as a whole: nothing of it points into the build directory."""
        root = f"{self.runtime}/root"
        p = subprocess.run(["meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir", root],
                           capture_output=True, text=True, check=False)
        self.assertEqual(p.returncode, 0, p.stdout + p.stderr)
        [installed] = (os.path.join(d, "samepage") for d, _, names in os.walk(root)
                       if "samepage" in names and d.endswith("/bin"))
        status, out, err = self.samepage("bench", "same", "--tiny", "--only", "samepage", program=installed)
        self.assertEqual((status, err), (0, ""), out)
        self.assertIn("all data intact", out)

    def test_build_tree(self):
        status, out, err = self.samepage("bench", "--list")
        self.assertEqual((status, err), (0, ""))
        for name in workloads.TABLE:
            self.assertRegex(out, rf"(?m)^{name} ")
        self.assertTrue(os.access(SAMEPAGE, os.X_OK))


if __name__ == "__main__":
    tap.main()
