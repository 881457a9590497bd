#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""bench/decay.py in a tiny size, with and without KSM: what it keeps, and that data which are not what was written are
noticed while programs work and in the end."""

import glob
import json
import os
import shutil
import subprocess
import sys
import time
import unittest

import tap
from test_bench import BUILD, Directory, report, settings

DECAY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../bench/decay.py")
TINY = ("--build", BUILD, "--minutes", "0.05", "--values", "600", "--writes", "20", "--instances", "2", "--program", "redis",
        "--settle-seconds", "0.5")
WATCHED = [settings.KSM + n for n in ("run", "pages_to_scan", "sleep_millisecs")]


@unittest.skipUnless(shutil.which("redis-server") and shutil.which("redis-cli"), "there is no redis-server")
class Decay(Directory):
    def setUp(self):
        super().setUp()
        self.json = f"{self.directory}/figures.json"
        self.results = f"{self.directory}/RESULTS.md"

    def started(self, *words):
        p = subprocess.Popen([sys.executable, DECAY, *TINY, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             text=True, env=os.environ | {"TMPDIR": self.directory})
        self.addCleanup(p.communicate)
        self.addCleanup(p.kill)
        return p

    def ended(self, *words):
        p = self.started(*words)
        out, err = p.communicate(timeout=240)
        self.assertEqual(p.returncode, 0, out + err)
        return out

    def figures(self):
        with open(self.json, encoding="utf-8") as f:
            return json.load(f)

    def test_one_after_another(self):
        with open(self.results, "w", encoding="utf-8") as f:
            f.write(f"# first\n\nbefore\n\n{report.INDEX}\n\nkept\n\n{report.DECAY}\n\nold\n")
        out = self.ended("--only", "samepage", "--one-after-another", "--json", self.json, "--markdown", self.results)
        self.assertIn("all data as they must be", out)
        r = self.figures()
        self.assertEqual(list(r["samples"]), ["nobody", "samepage"])
        self.assertGreater(r["done"]["redis"], 20)
        for _, sample in r["samples"]["samepage"]:
            self.assertEqual(list(sample), ["redis/samepage"])
            self.assertGreater(sample["redis/samepage"]["charged_bytes"], 1 << 20)
        parts = report.sections(self.results)
        self.assertEqual(list(parts), ["# first", report.INDEX, report.DECAY])
        self.assertEqual(parts[report.INDEX], f"{report.INDEX}\n\nkept")
        self.assertNotIn("old", parts[report.DECAY])
        self.assertIn("| redis: samepage |", parts[report.DECAY])
        self.assertTrue(os.path.exists(f"{self.directory}/charts/decay-redis.svg"))

    @unittest.skipIf(settings.ksm_refusal(), settings.ksm_refusal())
    def test_together(self):
        before = [settings.value(path) for path in WATCHED]
        self.ended("--json", self.json)
        self.assertEqual([settings.value(path) for path in WATCHED], before)
        samples = self.figures()["samples"]
        self.assertEqual(list(samples), ["nobody", "ksm-delay", "samepage"])
        self.assertEqual(list(samples["ksm-delay"][0][1]), ["redis/ksm-delay", "ksm-delay"])

    def failed_after(self, change, text):
        """`change`: what a server is told meanwhile."""
        p = self.started("--only", "samepage")
        deadline = time.monotonic() + 120
        while "samepage: 2 started" not in p.stdout.readline():
            self.assertLess(time.monotonic(), deadline)
            self.assertIsNone(p.poll())
        [socket] = glob.glob(f"{self.directory}/*/0-samepage/redis-1")
        subprocess.run(["redis-cli", "-s", socket, *change], check=True, capture_output=True)
        out, err = p.communicate(timeout=240)
        self.assertEqual(p.returncode, 1, out + err)
        self.assertIn(text, err)

    def test_wrong_values_are_noticed_at_work(self):
        change = "for _, k in ipairs(redis.call('keys', '*')) do redis.call('set', k, 'wrong') end"
        self.failed_after(["eval", change, "0"], "did not answer with what was written")

    def test_wrong_data_are_noticed_in_the_end(self):
        self.failed_after(["set", "more", "than"], "the data of the sides differ")

    def test_wrong_usage(self):
        for words, text in ((["--minutes", "0"], "more than 0"), (["--only", "nobody"], "invalid choice"),
                            (["--json", "/nonexistent/x"], "there is no directory"),
                            (["--program", "guests", "--guest-files", "/nonexistent"], "demo/prepare")):
            p = self.started(*words)
            out, err = p.communicate(timeout=60)
            self.assertEqual((p.returncode, out), (2, ""), err)
            self.assertIn(text, err)


if __name__ == "__main__":
    tap.main()
