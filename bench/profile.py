#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Where the CPU time of merging goes: a profile of all workers and the daemon while a command runs.

    bench/profile.py --pages 262144 -- bench/run.py same --only samepage --repetitions 1 --no-probe --no-gate

perf samples all CPUs by their clocks; samples of the workers (threads named "samepage") and of samepaged count. Each is
put under what it works for: the system call that it is in, or else the function of ours. Time is divided by --pages,
those that the command has merged. A table in Markdown is printed, the last line of which is the sum.
"""

import argparse
import collections
import os
import re
import subprocess
import sys
import tempfile

HERTZ = 10000
OURS = ("samepage", "samepaged")
# Functions of the kernel on the way to what a sample is in, and what they stand for; other system calls by their name.
CALLS = {"userfaultfd_move": "UFFDIO_MOVE", "move_pages": "UFFDIO_MOVE", "userfaultfd_ioctl": "userfaultfd, other ioctls",
         "do_pagemap_scan": "PAGEMAP_SCAN", "asm_exc_page_fault": "page faults"}
CALL = re.compile(r"^(?:__x64_sys|__do_sys|__se_sys|ksys|__sys)_(\w+)$")


def call_of(chain):
    """What the sample works for."""
    for name in chain:
        if name in CALLS:
            return CALLS[name]
    for name in reversed(chain):
        found = CALL.match(name)
        if found:
            return found.group(1)
    return "entering and leaving the kernel" if "do_syscall_64" in chain else f"`{chain[0]}`" if chain else "?"


def script(data):
    return subprocess.run(["perf", "script", "-i", data, "-F", "comm,ip,sym"], capture_output=True, text=True,
                          check=True).stdout


def samples(text):
    """(name of the thread, functions from the innermost outwards) of each in what `perf script` has written."""
    for block in text.split("\n\n"):
        lines = block.strip("\n").splitlines()
        if lines:
            chain = [m.group(1) for m in (re.match(r"\s*[0-9a-f]+ (.+?)(\+0x[0-9a-f]+)?$", line) for line in lines[1:]) if m]
            yield lines[0].strip(), chain


def table(text, pages, least_us):
    who = collections.Counter()
    for comm, chain in samples(text):
        if comm in OURS:
            who["worker" if comm == "samepage" else "daemon", call_of(chain)] += 1
    us = {k: n / HERTZ * 1e6 / pages for k, n in who.items()}
    print("| who | what | us/page |\n| --- | --- | --- |")
    rest = 0.0
    for (name, what), cost in sorted(us.items(), key=lambda item: -item[1]):
        if cost >= least_us:
            print(f"| {name} | {what} | {cost:.3f} |")
        else:
            rest += cost
    print(f"| | all that is below {least_us:g} | {rest:.3f} |")
    print(f"| | sum | {sum(us.values()):.3f} |")
    return bool(us)


def main():
    p = argparse.ArgumentParser(description="Tells what workers and daemon spend their CPU time on.")
    p.add_argument("--pages", type=int, required=True, help="what the command has merged, to divide by")
    p.add_argument("--least", type=float, default=0.01, metavar="US", help="of a row (0.01)")
    p.add_argument("command", nargs="+", metavar="COMMAND")
    args = p.parse_args()
    if args.pages < 1:
        p.error("--pages: at least 1")
    with tempfile.TemporaryDirectory(prefix="sp-profile-") as directory:
        data = os.path.join(directory, "data")
        try:
            done = subprocess.run(["perf", "record", "-q", "-F", str(HERTZ), "-e", "cpu-clock", "-a", "-g", "-o", data, "--",
                                   *args.command], stdout=sys.stderr, check=False)
        except FileNotFoundError:
            sys.exit("profile.py: perf is missing (Debian: linux-perf)")
        if done.returncode:
            sys.exit(f"profile.py: the command, or perf, ended with status {done.returncode}")
        if not table(script(data), args.pages, args.least):
            sys.exit("profile.py: no sample of a worker or of samepaged: did the command run samepage?")


if __name__ == "__main__":
    main()
