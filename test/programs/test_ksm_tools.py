#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Tools that know the kernel's KSM, unchanged, with our files: what they read is ours, what they write acts on us."""

import os
import shutil
import unittest

import tap
from cli_helper import Case

TOOLS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ksm_tools.py")
KERNEL = "/sys/kernel/mm/ksm"
os.environ["PATH"] += ":/usr/sbin:/sbin"


@unittest.skipIf(os.geteuid() or not os.path.exists("/dev/fuse") or not os.path.isdir(KERNEL),
                 "needs root, /dev/fuse and a kernel with KSM")
class Tools(Case):
    def check(self, tool, program=None):
        if not shutil.which(program or tool):
            self.skipTest(f"{tool} is not installed")
        work = f"{self.runtime}/work"
        os.mkdir(work)
        before = open(f"{KERNEL}/pages_to_scan", encoding="ascii").read()
        self.assertNotEqual(before, "900\n")
        result = self.samepage("run", "--advised", "--ksm-files", "--set",
                               "worker_start_kbytes=0,sleep_millisecs=5,sleep_max_millisecs=20", "--",
                               "/usr/bin/python3", TOOLS, tool, work)
        self.assertEqual(result, (0, "same\n", ""))
        self.assertNotEqual(open(f"{KERNEL}/pages_to_scan", encoding="ascii").read(), "900\n")
        self.wait_no_daemon()

    def test_ksmtuned(self):
        self.check("ksmtuned")

    def test_atop(self):
        self.check("atop")

    def test_netdata(self):
        self.check("netdata")

    def test_node_exporter(self):
        self.check("node_exporter", "prometheus-node-exporter")


if __name__ == "__main__":
    tap.main()
