#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Unmodified programs that advise nothing: `samepage run` beside the kernel's KSM with merge-any, flat out.

    python   8 python3 processes that load the same data: 30,000 dictionaries with strings and byte strings
    redis    4 redis-servers with the same 60,000 values of 1,000 bytes

The programs load, KSM being told of them by prctl(PR_SET_MEMORY_MERGE) in each, and are idle from then on. When the
last of them is ready the clock starts and merging is switched on: ksmd by its `run`, samepage by letting its daemon,
which was stopped, go on. (Left to themselves both would begin while the programs load.) Every 5 ms
pages_sharing and ksm_zero_pages are looked at, the kernel's or the daemon's; it ends when nothing has grown by a
hundredth for three seconds (and KSM has gone through everything three times). `saved` is what the kernel charges to
these processes and the store, against the same programs with nobody merging. The target: nine tenths of what KSM
saves, in a quarter of the time that KSM takes to come to 99 % of it.
"""

import argparse
import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import run as bench

PYTHON_PROGRAM = """
import random, sys
r = random.Random(1)
data = []
for i in range(30000):
    data.append({"name": f"item {i}", "tags": [f"tag {r.randrange(500)}" for _ in range(5)],
                 "size": r.randrange(1 << 40), "body": r.randbytes(r.randrange(20, 4000))})
print("ready", flush=True)
sys.stdin.read()
print(sum(len(d["body"]) for d in data), flush=True)
"""
PR_SET_MEMORY_MERGE = 67
QUIET_SECONDS = 3.0
LONGEST_SECONDS = 120
WANTED_SHARE, WANTED_TIME = 0.9, 0.25


def merge_any():
    """In the child, before exec, which keeps it (Documentation/admin-guide/mm/ksm.rst)."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0):
        os._exit(99)


# ---- the programs ------------------------------------------------------------------------------------------------


class Python:
    instances = 8

    def __init__(self, programs, directory):
        self.programs = programs
        self.running = []

    def start(self, side):
        self.running.append(self.programs.start(side.command(["/usr/bin/python3", "-c", PYTHON_PROGRAM]),
                                                stdin=subprocess.PIPE, **side.options))

    def ready(self):
        for p in self.running:
            bench.expect(p, "ready")

    def check(self):
        """Every process tells the same, and ends well."""
        told = set()
        for p in self.running:
            p.stdin.close()
            told.add(p.stdout.readline())
            if p.wait(60):
                raise bench.Failure(f"a python3 ended with status {p.returncode}")
        if len(told) != 1 or told == {""}:
            raise bench.Failure(f"the processes differ: {told}")


class Redis:
    instances = 4

    def __init__(self, programs, directory):
        self.programs = programs
        self.directory = directory
        self.running = []

    def socket(self, i):
        return f"{self.directory}/redis-{i}"

    def ask(self, i, *words):
        p = subprocess.run(["redis-cli", "-s", self.socket(i), *words], capture_output=True, text=True, check=False)
        return p.stdout.strip()

    def start(self, side):
        server = ["redis-server", "--port", "0", "--unixsocket", self.socket(len(self.running)),
                  "--dir", self.directory, "--save", "", "--enable-debug-command", "yes"]
        self.running.append(self.programs.start(side.command(server), stdin=subprocess.DEVNULL, **side.options))

    def ready(self):
        for i, _ in enumerate(self.running):
            while self.ask(i, "ping") != "PONG":
                if self.running[i].poll() is not None:
                    raise bench.Failure("redis-server does not start")
                time.sleep(0.02)
        for i, _ in enumerate(self.running):
            if self.ask(i, "debug", "populate", "60000", "key", "1000") != "OK":
                raise bench.Failure("redis-server cannot be filled: is DEBUG allowed?")

    def check(self):
        digests = {self.ask(i, "debug", "digest") for i, _ in enumerate(self.running)}
        if len(digests) != 1 or len(digests.pop()) != 40:
            raise bench.Failure("the data sets differ")


WORKLOADS = {"python": Python, "redis": Redis}

# ---- the sides ---------------------------------------------------------------------------------------------------


class Nobody:
    name = "nobody"
    daemon = None
    options = {}  # of Popen, for each program

    def __init__(self, build, programs, directory):
        pass

    def command(self, workload):
        return workload

    def switch_on_until(self, wanted):
        """The seconds that it took, where that is looked at; None: not, or not in time."""

    def pages(self):
        return 0

    def end(self):
        pass


class Ksm(bench.Ksm, Nobody):
    options = {"preexec_fn": merge_any}
    sample_seconds = 0.005

    def __init__(self, build, programs, directory):
        bench.write(bench.KSM + "run", 2)  # and not on before the programs have loaded

    def switch_on_until(self, wanted):
        bench.ksm_flat_out()

    def pages(self):
        return int(bench.read(bench.KSM + "pages_sharing")) + int(bench.read(bench.KSM + "ksm_zero_pages"))

    def scans(self):
        return int(bench.read(bench.KSM + "full_scans"))


class Samepage(bench.Samepage, Nobody):
    sample_seconds = 0.2
    advised = []

    def __init__(self, build, programs, directory):
        super().__init__(build, programs, directory)
        os.kill(self.daemon, signal.SIGSTOP)

    def look(self, pages, seconds):
        out = subprocess.run([f"{self.build}/bench/poll", self.target, str(pages), str(seconds)],
                             capture_output=True, text=True, check=False).stdout
        if not out:
            raise bench.Failure("the poller could not look")
        return json.loads(out)

    def switch_on_until(self, wanted):
        t0 = time.monotonic()
        os.kill(self.daemon, signal.SIGCONT)
        told = self.look(wanted, LONGEST_SECONDS)
        return told["at_ns"] / 1e9 - t0 if told["reached"] else None

    def pages(self):
        return self.look(0, 1)["saved_pages"]


def settle(side):
    """Waits until nothing grows any more. [(seconds, pages)] from now on."""
    samples, t0, grown, most = [], time.monotonic(), 0.0, 0
    scans = side.scans() if side.name == "ksm" else None
    while True:
        now, pages = time.monotonic() - t0, side.pages()
        samples.append((now, pages))
        if pages > most * 1.01:
            most, grown = pages, now
        scanned = scans is None or side.scans() >= scans + 3
        if now - grown > QUIET_SECONDS and scanned or now > LONGEST_SECONDS:
            return samples
        time.sleep(side.sample_seconds)


def reached(samples, pages):
    return next((t for t, p in samples if p >= pages), None)


def one(args, side_type, workload, wanted):
    """`wanted`: pages, for the side that is measured by its way there."""
    with tempfile.TemporaryDirectory(prefix="samepage-bench-") as directory, bench.Programs() as programs:
        side = side_type(args.build, programs, directory)
        try:
            w = WORKLOADS[workload](programs, directory)
            begin = time.monotonic()
            for _ in range(w.instances):
                w.start(side)
            w.ready()
            ready = time.monotonic() - begin
            seconds = side.switch_on_until(wanted)
            samples = settle(side) if side.name != "nobody" else [(0, 0)]
            pids = bench.descendants([p.pid for p in w.running])
            charged = bench.charged_bytes(pids, side.daemon)
            w.check()
        finally:
            side.end()
    return {"ready_seconds": ready, "seconds": seconds, "samples": samples, "charged_bytes": charged,
            "pages": samples[-1][1]}


def one_workload(args, workload):
    results = {s.name: one(args, s, workload, 0) for s in (Nobody, Ksm)}
    return results | {"samepage": one(args, Samepage, workload, int(WANTED_SHARE * results["ksm"]["pages"]))}


def compare(results):
    """The figures of one workload."""
    base = results["nobody"]["charged_bytes"]
    saved = {s: base - results[s]["charged_bytes"] for s in ("ksm", "samepage")}
    final = results["ksm"]["pages"]
    t_ksm = reached(results["ksm"]["samples"], 0.99 * final)
    t_ours = results["samepage"]["seconds"]
    return {"base": base, "saved": saved, "ksm_seconds": t_ksm, "samepage_seconds": t_ours,
            "pages": {s: results[s]["pages"] for s in saved},
            "ready": {s: results[s]["ready_seconds"] for s in results},
            "share": saved["samepage"] / saved["ksm"],
            "met": saved["samepage"] >= WANTED_SHARE * saved["ksm"] and t_ours is not None
                   and t_ours <= WANTED_TIME * t_ksm}


def report(workload, c, out):
    mib = 1 << 20
    ours = "never" if c["samepage_seconds"] is None else f"{c['samepage_seconds']:.2f}"
    out.write(f"""
## {workload}: {WORKLOADS[workload].instances} processes

| | nobody | KSM, merge-any, flat out | samepage run |
| --- | --- | --- | --- |
| ready after, s | {c['ready']['nobody']:.2f} | {c['ready']['ksm']:.2f} | {c['ready']['samepage']:.2f} |
| memory charged, MiB | {c['base'] / mib:.1f} | {(c['base'] - c['saved']['ksm']) / mib:.1f} | {(c['base'] - c['saved']['samepage']) / mib:.1f} |
| saved, MiB | | {c['saved']['ksm'] / mib:.1f} | {c['saved']['samepage'] / mib:.1f} ({c['share']:.2f} of KSM's) |
| pages counted as saved | | {c['pages']['ksm']} | {c['pages']['samepage']} |
| s to 99 % of what KSM reaches, and to {WANTED_SHARE:.0%} of it | | {c['ksm_seconds']:.2f} | {ours} |

Target ({WANTED_SHARE:.0%} of the saving in {WANTED_TIME:.0%} of the time): {'met' if c['met'] else 'MISSED'}
""")


def main():
    p = argparse.ArgumentParser(description="samepage run beside KSM with merge-any, on unmodified programs")
    p.add_argument("--build", default=f"{bench.TOP}/build", help="build directory (%(default)s)")
    p.add_argument("--workload", choices=list(WORKLOADS), action="append", help="default: all")
    p.add_argument("--json", metavar="FILE", help="write every sample to FILE")
    p.add_argument("--markdown", metavar="FILE", nargs="?", const=f"{bench.TOP}/bench/REAL.md",
                   help="write the tables to FILE (bench/REAL.md)")
    args = p.parse_args()
    args.build = os.path.abspath(args.build)
    try:
        if os.geteuid() != 0 or not os.path.exists(bench.KSM + "run"):
            raise bench.Failure("root is needed, and a kernel with KSM")
        if "redis" in (args.workload or WORKLOADS) and not shutil.which("redis-server"):
            raise bench.Failure("redis-server is missing: apt-get install redis-server")
        with bench.ksm_settings():
            results = {w: one_workload(args, w) for w in args.workload or WORKLOADS}
    except bench.Failure as e:
        print(f"bench: {e}", file=sys.stderr)
        return 1
    figures = {w: compare(r) for w, r in results.items()}
    machine = bench.machine_description()
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump({"machine": machine, "figures": figures, "results": results}, f, indent=1)
    with contextlib.ExitStack() as stack:
        outs = [sys.stdout]
        if args.markdown:
            outs.append(stack.enter_context(open(args.markdown, "w", encoding="utf-8")))
            outs[1].write("# Unmodified programs beside KSM with merge-any\n\nWritten by `bench/real.py --markdown`, whose "
                          "head says how it is measured.\n\n{cpu}, {cpus} CPUs, {memory_mib} MiB, Linux {kernel} "
                          "{machine}, {date}. KSM: pages_to_scan 100000, sleep_millisecs 0.\n".format(**machine))
        for out in outs:
            for w, c in figures.items():
                report(w, c, out)
    return 0 if all(c["met"] for c in figures.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
