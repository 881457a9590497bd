#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Usage: bench/estimate.py [--build DIR] [--mbytes N] [--repeat N]

How fast `samepage estimate` reads memory, with one core: two processes with N MiB each, half of it common to both, in small
and in huge pages; everything, and samples. By CPU time of the estimate (user and system), which other load does not
count into; medians, lowest and highest. Beside it the stated error, how far off it was, and what was kept of each page."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

GB = 1e9
PAGE = 4096
KEPT = 24  # sizeof(struct sp_census_page)


def start(build, seed, pages, kinds):
    p = subprocess.Popen([f"{build}/test/programs/estimate_pages", str(seed), *(f"{k}:{pages // 2}" for k in kinds)],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    p.stdout.readline()
    return p


def look(build, pids, one_in):
    """The report, and seconds of CPU."""
    with tempfile.TemporaryFile() as out:
        p = subprocess.Popen([f"{build}/samepage", "estimate", "--json", "--sample", f"1/{one_in}", *map(str, pids)],
                             stdout=out)
        _, status, used = os.wait4(p.pid, 0)
        p.returncode = os.waitstatus_to_exitcode(status)
        if p.returncode:
            sys.exit("bench/estimate.py: samepage failed")
        out.seek(0)
        return json.load(out), used.ru_utime + used.ru_stime


def spread(values, form):
    return f"{form(statistics.median(values))} ({form(min(values))}-{form(max(values))})"


def row(build, pids, one_in, repeat, truth):
    rates, off, stated, memory = [], [], [], []
    for _ in range(repeat):
        report, seconds = look(build, pids, one_in)
        total = report["total"]
        rates.append(total["private"] / seconds / GB)
        off.append(100 * abs(total["saved"] - truth) / total["private"])
        stated.append(100 * total["saved_error"] / total["private"])
        memory.append(KEPT * report["reading"]["kept_pages"] / (total["private"] / PAGE))
    print(f"| 1/{one_in} | {spread(rates, '{:.1f}'.format)} | {1e12 / (statistics.median(rates) * GB):.0f} | "
          f"{statistics.median(stated):.2f} | {max(off):.2f} | {statistics.median(memory):.2f} |", flush=True)


def table(build, title, kinds, pages, repeat):
    programs = [start(build, seed, pages, kinds) for seed in (1, 2)]
    print(f"\n{title}\n\n| sample | GB/s and core | s for 1 TB | stated error, % | off by at most, % | bytes kept of each page |\n"
          "| --- | --- | --- | --- | --- | --- |")
    for one_in in (1, 4, 16, 64, 256):
        row(build, [p.pid for p in programs], one_in, repeat, pages // 2 * PAGE)
    for p in programs:
        p.stdin.close()
        p.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", default="build")
    parser.add_argument("--mbytes", type=int, default=2048)
    parser.add_argument("--repeat", type=int, default=5)
    a = parser.parse_args()
    pages = a.mbytes * 256 // 1024 * 1024
    table(a.build, "Small pages:", ("common", "unique"), pages, a.repeat)
    table(a.build, "The common half in huge pages:", ("huge", "unique"), pages, a.repeat)


if __name__ == "__main__":
    main()
