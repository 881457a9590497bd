#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs each case of ksm_calls on the kernel and under `samepage run`: every line must be the same, but for those below.

    ksm_calls.py CALLS SAMEPAGE SAMEPAGED [CASE...]

TAP on standard output.
"""
import os
import sys
import tempfile

import preload

# Lines that differ, by the word that they begin with, and what stands there with us.
ADVISED = {
    # We merge private anonymous memory, not a program's copies of pages of files.
    "[file]": "[file]: 0 of 1 mergeable",
    # The kernel's files tell of the kernel's merging.
    "[kernel]": "[kernel] merge_any 0 mergeable 0",
}
# New memory is merged without being asked for.
ALL = {**ADVISED, "[new]": "[new]: 512 of 512 mergeable"}
# Where there is to be no worker from the start.
START_KBYTES = {("early", "all"): 8192}


def expected(line, different):
    return different.get(line.split("]")[0] + "]", line) if line.startswith("[") else line


# As a service manager does it: the kernel is told before all else.
SET_BEFORE = [sys.executable, "-c", "import ctypes, os, sys; ctypes.CDLL(None).prctl(67, 1, 0, 0, 0); "
              "os.execv(sys.argv[1], sys.argv[1:])"]


def compare(calls, case, samepage, socket, before=()):
    plain = preload.run([*before, calls, case])
    for scope, different in ("advised", ADVISED), ("all", ALL):
        ours = preload.run([*before, samepage, "run", f"--{scope}", "--socket", socket, "--", calls, case],
                           {"SAMEPAGE_SET": f"worker_start_kbytes={START_KBYTES.get((case, scope), 0)}"})
        lines = "\n".join(expected(line, different) for line in plain[1].splitlines())
        yield f"{case}{', set before' if before else ''} ({scope})", preload.difference((plain[0], lines, plain[2]), ours)


def main():
    calls, samepage, samepaged = (os.path.abspath(p) for p in sys.argv[1:4])
    cases = sys.argv[4:] or preload.run([calls])[1].split()
    results = []
    with tempfile.TemporaryDirectory() as directory:
        daemon, environment = preload.daemon_start(samepaged, directory)
        try:
            for case, before in [*((case, ()) for case in cases), ("say_inherited", SET_BEFORE), ("exec", SET_BEFORE)]:
                for name, lines in compare(calls, case, samepage, environment["SAMEPAGE_SOCKET"], before):
                    results.append(lines)
                    preload.report(len(results), name, lines)
        finally:
            daemon.terminate()
            daemon.wait()
    print("1..%d" % len(results))
    return 1 if any(results) else 0


if __name__ == "__main__":
    sys.exit(main())
