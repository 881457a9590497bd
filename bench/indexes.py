#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What the index is worth: by fingerprints (the default) beside KSM's two trees ordered by content.

Both are asked by the same engine in a domain within a process, and share the same pages; only how twins are found
differs. bench_trees.c says what is measured; the two kinds take turns. "alone" is the index without engine and
kernel: its pages lie there to be read, while in a process the trees must have every page that they compare read by
the kernel, because the program may unmap it at any time. Time is from registering to settled: the worker pauses
between its scans, and for longer when they cost much. Nothing of the machine is changed.
"""

import argparse
import json
import os
import subprocess
import sys

sys.dont_write_bytecode = True

from lib.machine import described, description  # noqa: E402
from lib.report import INDEX, write_section  # noqa: E402
from lib.tables import cell  # noqa: E402
from lib.targets import median  # noqa: E402

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

KINDS = ("hash", "tree")
WORKLOADS = {
    "same": "one half is the other once more, in the same order",
    "shuffled": "one half is the other once more, shuffled",
    "unique": "no two pages alike, different in their first word",
    "last": "no two pages alike, different in their last word only",
}
# Label, key, digits, unit, whether tree / hash says something.
ROWS = [
    ("time until settled, s", "seconds", 3, 1.0, True),
    ("CPU, us/page", "cpu_us", 2, 1.0, True),
    ("CPU of the index alone, pages without a twin, us/page", "bare_us", 2, 1.0, True),
    ("memory of the index, B/page", "bytes", 1, 1.0, True),
    ("pages saved, of those possible", "saved", 3, 1.0, False),
]


def measure(args, workload, kind):
    out = subprocess.run([f"{args.build}/bench/bench_trees", workload, kind, str(args.mib)], capture_output=True,
                         text=True)
    if out.returncode:
        sys.exit(f"indexes: {workload} {kind}: exit status {out.returncode}: {out.stdout}{out.stderr}")
    r = json.loads(out.stdout)
    r |= {"cpu_us": r["cpu_seconds"] / r["pages"] * 1e6, "bare_us": r["bare_cpu_seconds"] / r["bare_pages"] * 1e6,
          "bytes": r["index_bytes"] / r["pages"], "saved": r["sharing"] / max(r["twins"], 1)}
    print(f"{workload:9} {kind}  {r['seconds']:7.3f} s  {r['cpu_us']:7.2f} us/page  alone {r['bare_us']:6.2f}  "
          f"{r['bytes']:5.1f} B/page", flush=True)
    return r


def rows(runs):
    for label, key, digits, unit, ratio in ROWS:
        if key == "saved" and not runs["hash"][0]["twins"]:
            continue
        row = [label] + [cell(runs[k], key, digits, unit) for k in KINDS]
        yield row + [f"{median(runs['tree'], key) / median(runs['hash'], key):.1f}" if ratio else ""]


def markdown(args, results):
    yield INDEX + "\n\nWritten by `bench/indexes.py --markdown`: what is measured stands at the top of that file.\n"
    yield f"{described(description())}."
    yield f"A domain within one process, {args.mib} MiB, {args.repetitions} repetitions; median (lowest-highest)."
    for workload, runs in results.items():
        yield f"\n## {workload}: {WORKLOADS[workload]}\n\n| | hash | tree | tree / hash |\n| --- | --- | --- | --- |"
        yield from ("| " + " | ".join(row) + " |" for row in rows(runs))


def main():
    p = argparse.ArgumentParser(description="fingerprints beside two trees", allow_abbrev=False)
    p.add_argument("--build", default=f"{TOP}/build", help="build directory (%(default)s)")
    p.add_argument("--repetitions", type=int, default=3)
    p.add_argument("--mib", type=int, default=128, help="memory, a power of two (%(default)s)")
    p.add_argument("--markdown", metavar="FILE", nargs="?", const=f"{TOP}/bench/RESULTS.md",
                   help="write the tables into FILE (bench/RESULTS.md), in the place of those that are there")
    args = p.parse_args()
    args.build = os.path.abspath(args.build)
    results = {w: {k: [] for k in KINDS} for w in WORKLOADS}
    for workload in results:
        for _ in range(args.repetitions):
            for kind in KINDS:
                results[workload][kind].append(measure(args, workload, kind))
    for workload, runs in results.items():
        print(f"\n{workload}: {WORKLOADS[workload]}\n{'':56}{'hash':>24}{'tree':>24}{'ratio':>8}")
        for label, ours, trees, ratio in rows(runs):
            print(f"{label:56}{ours:>24}{trees:>24}{ratio:>8}")
    if args.markdown:
        write_section(args.markdown, "\n".join(markdown(args, results)))


if __name__ == "__main__":
    main()
