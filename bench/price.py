#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What a program pays for running under `samepage run`: bench/victim.c, alone and with us, in turns.

    start     `true`, from fork to the end
    malloc    a program that allocates and frees all the time, for which no worker is started (worker_start_kbytes is
              set above what it has): what is interposed, and the allocator
    mmap      the same for one that maps and unmaps all the time
    settled   two processes with the same 256 MiB, all of it shared, and nothing left to be done: reading it at random
    churn     the same two, which map and unmap other memory all the time, as in mmap

All sides are started at once, on one processor, and then work in turns, every other time in the opposite order. How fast
a program is depends on where the kernel happened to put it (address space randomisation: whether what is mapped crosses
a boundary of 2 MiB, and costs a page table more, or shares one with its neighbours) by more than what is to be measured
here, and turns do not help against that. So malloc and mmap are begun anew for each of REPETITIONS rounds; in a round
each side has TURNS turns of a twentieth of a second, of which the median counts. The figure is the median of the
rounds' ratios (settled and churn: of the turns' of some rounds); `spread` is the middle half of them, and `+-` what the median itself is uncertain by (95 %, from
resampling the rounds). The side `alone again` is a second process without us: how far from 1 it is says what this
machine can tell apart.

malloc also stands beside the same allocator without us (LD_PRELOAD of libmimalloc), and mmap and malloc beside
`--advised`, which leaves the heap with the C library's allocator. Run it on a quiet machine.
"""

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True

from lib.machine import PAGE, Failure, described, description  # noqa: E402
from lib.programs import Programs, expect, say  # noqa: E402
from lib.sides import Samepage  # noqa: E402

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

MIB = 256
SECONDS = 0.05
TURNS = 5
NEVER = ["--set", "worker_start_kbytes=1073741824"]
# At least so much of the speed without us; start: at most so many milliseconds more.
TARGETS = {"malloc": 0.99, "mmap": 0.99, "settled": 0.98, "churn": 0.98, "start": 5.0}


def samepage(args, *options):
    return [f"{args.build}/samepage", "run", *options, "--"]


def on_one_processor():
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def started(args, programs, before, mode, environment=None):
    p = programs.start([*before, f"{args.build}/bench/victim", mode, str(MIB), str(SECONDS)], stdin=subprocess.PIPE,
                       env={**os.environ, **(environment or {})}, prepare=on_one_processor)
    expect(p, "ready")
    return p


def worked(p):
    say(p, "go")
    return float(expect(p, "steps")[0])


def in_turns(running, turns):
    """Steps per second of each side, of which `running` has the process; the first turn is not counted."""
    results = {s: [] for s in running}
    order = list(running)
    for i in range(turns + 1):
        for s in order:
            steps = worked(running[s])
            if i:
                results[s].append(steps)
        order.reverse()
    return results


def in_rounds(args, one_round):
    """What each of REPETITIONS rounds says of each side: the median of its turns."""
    results = {}
    for _ in range(args.repetitions):
        for s, values in one_round().items():
            results.setdefault(s, []).append(statistics.median(values))
    return results


def mimalloc():
    with contextlib.suppress(FileNotFoundError):
        for directory in ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"):
            for name in sorted(os.listdir(directory)):
                if name.startswith("libmimalloc.so."):
                    return os.path.join(directory, name)
    raise Failure("libmimalloc is missing: apt-get install libmimalloc2.0")


def without_worker(args, mode):
    sides = {"alone": ([], None), "alone again": ([], None), "advised": (samepage(args, "--advised", *NEVER), None),
             "all": (samepage(args, *NEVER), None)}
    if mode == "malloc":
        sides["mimalloc alone"] = ([], {"LD_PRELOAD": mimalloc()})

    def one_round():
        with Programs() as programs:
            return in_turns({s: started(args, programs, before, mode, env) for s, (before, env) in sides.items()}, TURNS)
    return in_rounds(args, one_round)


def shared_pages(args, socket):
    out = subprocess.run([f"{args.build}/bench/poll", socket, "0", "1"], capture_output=True, text=True,
                         check=True).stdout
    return json.loads(out)["saved_pages"]


def wait_until_shared(args, socket):
    """Until everything the two have in common is shared and the number has not changed for two seconds."""
    deadline, last, since = time.monotonic() + 60, -1, 0.0
    while time.monotonic() - since < 2 or last < (MIB << 20) // PAGE * 0.99:
        if time.monotonic() > deadline:
            raise Failure(f"only {last} pages are shared after a minute")
        n = shared_pages(args, socket)
        if n != last:
            last, since = n, time.monotonic()
        time.sleep(0.1)


def settled_once(args, mode):
    with tempfile.TemporaryDirectory(prefix="sp-bench-") as directory, Programs() as programs:
        side = Samepage(args, "samepage", programs, directory, everything=True, hold=False)
        with_us = samepage(args, "--socket", side.target)
        alone = [started(args, programs, [], mode) for _ in range(2)]
        ours = [started(args, programs, with_us, mode) for _ in range(2)]
        wait_until_shared(args, side.target)
        return in_turns({"alone": alone[0], "alone again": alone[1], "all": ours[0]}, 4 * TURNS)


def settled(args, mode):
    """Sharing takes a while: fewer rounds, of more turns, each of which counts."""
    results = {}
    for _ in range(1 + args.repetitions // 6):
        for s, values in settled_once(args, mode).items():
            results.setdefault(s, []).extend(values)
    return results


def milliseconds_of_true(before):
    begin = time.monotonic()
    subprocess.run([*before, "/bin/true"], check=True)
    return (time.monotonic() - begin) * 1e3


def start(args):
    sides = {"alone": [], "all": samepage(args)}
    results = {s: [] for s in sides}
    for _ in range(4 * args.repetitions):
        for s, before in sides.items():
            results[s].append(milliseconds_of_true(before))
    return results


MEASURES = {"start": start, "malloc": lambda a: without_worker(a, "malloc"), "mmap": lambda a: without_worker(a, "mmap"),
            "settled": lambda a: settled(a, "settled"), "churn": lambda a: settled(a, "churn")}


def uncertainty(ratios):
    """Half of the middle 95 % of the medians of samples of the ratios: the same ratios give the same."""
    source = random.Random(1)
    medians = [statistics.median(source.choices(ratios, k=len(ratios))) for _ in range(1000)]
    low, *_, high = statistics.quantiles(medians, n=40)
    return (high - low) / 2


def rows(name, results):
    """(measure, side, median, of alone, its uncertainty, lower and upper quartile, verdict)."""
    alone = results["alone"]
    for side, values in results.items():
        ratios = [v / a for v, a in zip(values, alone)]
        low, ratio, high = statistics.quantiles(ratios, n=4)
        median, verdict = statistics.median(values), ""
        if side == "all":
            met = median - statistics.median(alone) <= TARGETS[name] if name == "start" else ratio >= TARGETS[name]
            verdict = "met" if met else "MISSED"
        yield name, side, median, ratio, uncertainty(ratios), low, high, verdict


def report(results, out):
    out.write("| | | median | of alone | +- | spread | |\n| --- | --- | --- | --- | --- | --- | --- |\n")
    for name, r in results.items():
        unit = "ms" if name == "start" else "steps/s"
        for _, side, median, ratio, sure, low, high, verdict in rows(name, r):
            out.write(f"| {name} | {side} | {median:.4g} {unit} | {ratio:.3f} | {sure:.3f} | {low:.3f}-{high:.3f} | "
                      f"{verdict} |\n")


def main():
    p = argparse.ArgumentParser(description="what a program pays for running under `samepage run`")
    p.add_argument("--build", default=f"{TOP}/build", help="build directory (%(default)s)")
    p.add_argument("--measure", choices=list(MEASURES), action="append", help="default: all")
    p.add_argument("--repetitions", type=int, default=31, help="rounds (%(default)s)")
    p.add_argument("--json", metavar="FILE", help="write every value to FILE")
    p.add_argument("--markdown", metavar="FILE", nargs="?", const=f"{TOP}/bench/PRICE.md",
                   help="write the table to FILE (bench/PRICE.md)")
    args = p.parse_args()
    args.build = os.path.abspath(args.build)
    args.samepaged, args.daemon_words, args.no_ksm = f"{args.build}/samepaged", [], "it is not asked"
    try:
        results = {name: MEASURES[name](args) for name in args.measure or MEASURES}
    except (Failure, OSError, subprocess.CalledProcessError) as e:
        print(f"bench: {e}", file=sys.stderr)
        return 1
    machine = description()
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump({"machine": machine, "results": results}, f, indent=1)
    if args.markdown:
        with open(args.markdown, "w", encoding="utf-8") as f:
            f.write("# What a program pays\n\nWritten by `bench/price.py --markdown`, whose head says how it is measured."
                    f"\n\n{described(machine)}.\n\n")
            report(results, f)
    report(results, sys.stdout)
    missed = [1 for name, r in results.items() for row in rows(name, r) if row[-1] == "MISSED"]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
