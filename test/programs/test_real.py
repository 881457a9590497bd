# SPDX-License-Identifier: MIT
"""Real programs do the same with us as without: those of real/workloads.py that take seconds. The others, and figures,
are for tools/programs."""

import os
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "real")]

import compare  # noqa: E402
import tap  # noqa: E402

BUILD = os.path.abspath(os.environ.get("SAMEPAGE_BUILD", os.path.join(HERE, "../../build")))


class Real(unittest.TestCase):
    pass


def case(program):
    def run(self):
        outcome = compare.compare(program, BUILD)
        if outcome.result in (compare.SKIPPED, compare.BROKEN):
            self.skipTest(outcome.why)
        self.assertEqual((outcome.result, outcome.why), (compare.SAME, ""))
    return run


for short in (p for p in compare.PROGRAMS if p["short"]):
    name = "".join(c if c.isalnum() else "_" for c in short["name"])
    setattr(Real, f"test_{name}", case(short))

if __name__ == "__main__":
    compare.prepare()
    tap.main()
