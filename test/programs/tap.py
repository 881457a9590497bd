# SPDX-License-Identifier: MIT
"""Runs unittest cases and prints TAP, which `meson test` counts case by case."""

import sys
import traceback
import unittest


class Result(unittest.TestResult):
    """Prints a line for each case when it ends; what a failure has to say comes before it as comments."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def line(self, good, test, remark=""):
        self.number += 1
        name = test.id().split(".", 1)[-1]
        print(f"{'ok' if good else 'not ok'} {self.number} - {name}{remark}", flush=True)

    def explain(self, text):
        for line in text.rstrip().splitlines():
            print(f"# {line}", flush=True)

    def bad(self, test, error):
        self.explain("".join(traceback.format_exception(*error)))
        self.line(False, test)

    def addSuccess(self, test):
        super().addSuccess(test)
        self.line(True, test)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.bad(test, err)

    def addError(self, test, err):
        super().addError(test, err)
        self.bad(test, err)

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.bad(subtest, err)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.line(True, test, f" # SKIP {reason}")


def main(words=sys.argv[1:]):
    """All cases of the calling script, or those named as Class or Class.case."""
    loader = unittest.defaultTestLoader
    module = sys.modules["__main__"]
    suite = loader.loadTestsFromNames(words, module) if words else loader.loadTestsFromModule(module)
    result = Result()
    suite.run(result)
    # The plan comes last: cases of subtests are not known before.
    print(f"1..{result.number}", flush=True)
    sys.exit(0 if result.wasSuccessful() else 1)
