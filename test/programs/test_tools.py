#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Tools that no other test runs, as far as that takes no time: what they say of themselves, and of wrong words."""

import os
import subprocess
import sys
import tempfile
import unittest

import tap
from cli_helper import BUILD

TOOLS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../tools")


def two_nodes(*words, **options):
    """Where there is a way out without a guest: nothing of it waits for one, or for the archive."""
    return subprocess.run([sys.executable, f"{TOOLS}/two-nodes", *words], capture_output=True, text=True, timeout=60,
                          check=False, **options)


class TwoNodes(unittest.TestCase):
    def test_help(self):
        p = two_nodes("--help")
        self.assertEqual((p.returncode, p.stderr), (0, ""))
        for word in ("tools/two-nodes", "--build", "TEST"):
            self.assertIn(word, p.stdout)

    def test_unknown_option(self):
        p = two_nodes("--bild", "x")
        self.assertEqual((p.returncode, p.stdout), (2, ""))
        self.assertIn("unrecognized arguments: --bild", p.stderr)

    def refused(self, text, *words, **options):
        p = two_nodes(*words, **options)
        self.assertEqual((p.returncode, p.stdout), (1, ""), p.stderr)
        self.assertEqual(p.stderr, f"two-nodes: {text}\n")

    def test_no_such_program(self):
        for test in ("test/os/nosuch", "test/os"):
            self.refused(f"no such program: {BUILD}/{test} (build it first)", "--build", BUILD, test)

    def test_nothing_built(self):
        with tempfile.TemporaryDirectory() as directory:
            self.refused(f"no such program: {directory}/test/os/test_os_nodes (build it first)", "--build", directory)
            there = os.path.relpath(sys.executable, os.path.realpath(directory))
            self.refused(f"no such program: {directory}/samepaged (build it first)", "--build", directory, there)

    def test_no_qemu(self):
        self.refused("qemu-system-x86_64 is missing (Debian: qemu-system-x86)", "--build", BUILD, "samepage",
                     env={"PATH": "/nonexistent"})


if __name__ == "__main__":
    tap.main()
