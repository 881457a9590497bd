#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The benchmark: samepage beside the kernel's own KSM, flat out, on the same processes in the same run.

Three workloads, four processes each: `same` (all memory identical, in the same order); `tenth` (the first tenth
of it identical, in the same order, the rest unique); and, with no target, the hardest form of the latter,
`scattered` (the common tenth lies page by page at other places in each process, so that each page needs a
mapping of its own). The two sides take turns. A repetition goes like this:

    start the processes, wait until their memory is filled
    t0: tell all of them to advise their memory (MADV_MERGEABLE)
    a small C program (poll) looks every 5 ms until 99 % of the possible saving is reached: t1 (for samepage
    not only promised by the daemon's counter, but done in the processes' page tables)
    the machine's CPU time and memory at t0 and t1, and once more after a pause
    every process compares every byte of its memory with what it should be

CPU is that of the whole machine between t0 and t1 (/proc/stat, 10 ms ticks, all that is not idle: scanner,
daemon, faults of the programs, poller), and beside it the scheduler's exact account of the processes
concerned. Memory saved is not taken from anybody's counters: it is what the kernel charges to these processes
(the sum of Pss, which counts a shared page once) and to the store, daemon included, so what samepage needs for
itself is subtracted. AnonPages + Shmem of the whole machine stand beside it; other programs move that figure too.

KSM gets pages_to_scan 100000 and sleep_millisecs 0, samepage its defaults. Settings of the kernel that are
changed are put back, whatever happens. Run it on a quiet machine, as root.
"""

import argparse
import contextlib
import glob
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
KSM = "/sys/kernel/mm/ksm/"
MAX_MAP_COUNT = "/proc/sys/vm/max_map_count"
PAGE = 4096
PROCESSES = 4
REACH = 0.99
PAUSE_SECONDS = 2.0
# At most this share of KSM's time and of its CPU.
TARGETS = {"same": 1 / 3, "tenth": 1 / 10, "scattered": None}
# The kernel's account must show at least this much of the possible saving, less what the merging may need for
# itself for each page it manages, saved or not.
MEMORY_FLOOR = 0.95
OWN_BYTES_PER_PAGE = 100


class Failure(Exception):
    """A run that says nothing about speed: something did not work."""


# ---- looking at the machine ----------------------------------------------------------------------------------


def read(path):
    with open(path) as f:
        return f.read()


def write(path, value):
    with open(path, "w") as f:
        f.write(f"{value}\n")


def machine_cpu_seconds():
    """CPU time of the whole machine since boot that was not idle (nor stolen by a hypervisor)."""
    user, nice, system, _idle, _iowait, irq, softirq = map(int, read("/proc/stat").split("\n")[0].split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def process_cpu_seconds(pids):
    """Exact CPU time of all threads of the processes."""
    ns = 0
    for pid in pids:
        for path in glob.glob(f"/proc/{pid}/task/*/schedstat"):
            with contextlib.suppress(OSError):
                ns += int(read(path).split()[0])
    return ns / 1e9


def descendants(pids):
    parents = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        with contextlib.suppress(OSError):
            stat = read(path)
            parents[int(stat.split()[0])] = int(stat.rpartition(")")[2].split()[1])
    found = set(pids)
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return found
        found |= more


def memory_bytes():
    """What the machine uses: AnonPages + Shmem, and what it could still give."""
    with contextlib.suppress(OSError):
        write("/proc/sys/vm/stat_refresh", 1)  # folds the per-CPU remainders into the totals
    kb = dict(re.findall(r"(\w+): +(\d+) kB", read("/proc/meminfo")))
    return {"used": (int(kb["AnonPages"]) + int(kb["Shmem"])) * 1024, "available": int(kb["MemAvailable"]) * 1024}


def charged_bytes(pids, daemon):
    """Memory of the processes together; a page that n of all processes map counts as 1/n in each. The store, which
    is in the daemon's memfds, counts as what it holds: clients need not have its pages in their page tables."""
    total = store_bytes(daemon) if daemon else 0
    for pid in pids:
        with contextlib.suppress(OSError, KeyError):  # kernel threads have none
            pss = dict(re.findall(r"^(Pss\w*): +(\d+) kB", read(f"/proc/{pid}/smaps_rollup"), re.M))
            total += (int(pss["Pss"]) - int(pss["Pss_Shmem"])) * 1024
    return total


def store_bytes(daemon):
    """Memory in the daemon's memfds, each counted once however many descriptors it has."""
    blocks = {}
    for path in glob.glob(f"/proc/{daemon}/fd/*"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if os.readlink(path).startswith("/memfd:"):
                info = os.stat(path)
                blocks[info.st_dev, info.st_ino] = info.st_blocks
    return sum(blocks.values()) * 512


def background_cpu():
    """CPUs' worth of work that others do while we do nothing."""
    before = machine_cpu_seconds()
    time.sleep(0.5)
    return (machine_cpu_seconds() - before) / 0.5


def ksmd_pid():
    for path in glob.glob("/proc/[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if read(path) == "ksmd\n":
                return int(path.split("/")[2])
    raise Failure("this kernel has no ksmd: nothing to compare with")


def machine_description():
    model = re.search(r"model name\s*: (.*)", read("/proc/cpuinfo"))
    total = re.search(r"MemTotal: +(\d+) kB", read("/proc/meminfo"))
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu": model.group(1) if model else "unknown",
        "cpus": os.cpu_count(),
        "memory_mib": int(total.group(1)) // 1024,
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


# ---- settings of the kernel, changed for a while ---------------------------------------------------------------


@contextlib.contextmanager
def ksm_settings():
    """KSM as it was found, whatever happens in between. Writing 2 to run makes every page private again."""
    names = ["pages_to_scan", "sleep_millisecs", "advisor_mode", "run"]
    names = [n for n in names if os.path.exists(KSM + n)]
    before = {n: read(KSM + n).strip() for n in names}
    if "advisor_mode" in before:
        before["advisor_mode"] = re.search(r"\[(.*)\]", before["advisor_mode"]).group(1)
    if before["run"] == "1":
        raise Failure("ksmd is running (/sys/kernel/mm/ksm/run is 1): it would take part; stop it first")
    try:
        yield
    finally:
        write(KSM + "run", 2)
        for n in names:
            write(KSM + n, before[n])


def ksm_flat_out():
    if os.path.exists(KSM + "advisor_mode"):
        write(KSM + "advisor_mode", "none")
    write(KSM + "pages_to_scan", 100000)
    write(KSM + "sleep_millisecs", 0)
    write(KSM + "run", 1)


@contextlib.contextmanager
def mapping_limit(pages_per_process):
    """Every scattered page costs two mappings, and samepage spends 60 % of the limit at most. Raised only where
    that would not be enough, so that the figures hold for the kernel's default where they can."""
    before = int(read(MAX_MAP_COUNT))
    needed = 4 * pages_per_process // 10 + 10000
    if before >= needed:
        print(f"vm.max_map_count is {before}: enough, not changed")
        yield
        return
    print(f"vm.max_map_count raised from {before} to {needed} for this run")
    write(MAX_MAP_COUNT, needed)
    try:
        yield
    finally:
        write(MAX_MAP_COUNT, before)


# ---- programs ---------------------------------------------------------------------------------------------------


class Programs:
    """All processes started for a repetition; ended with it, in every case."""

    def __init__(self):
        self.children = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for p in self.children:
            if p.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(p.pid, signal.SIGKILL)
        for p in self.children:
            p.wait()

    def start(self, command, **options):
        p = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1, start_new_session=True, **options)
        self.children.append(p)
        return p


def say(p, line):
    p.stdin.write(line + "\n")
    p.stdin.flush()


def expect(p, line):
    """The next line must begin so; what follows, in words."""
    got = p.stdout.readline().strip()
    if not got.startswith(line):
        raise Failure(f"a process said {got!r} and not {line!r} (exit status {p.poll()})")
    return got[len(line):].split()


class Ksm:
    name = "ksm"
    target = "ksm"

    def __init__(self, build, programs, directory):
        write(KSM + "run", 2)
        ksm_flat_out()
        self.pids = [ksmd_pid()]
        self.daemon = None

    def command(self, workload):
        return workload

    def end(self):
        write(KSM + "run", 2)


class Samepage:
    name = "samepage"
    advised = ["--advised"]  # what is merged

    def __init__(self, build, programs, directory):
        write(KSM + "run", 2)
        self.build = build
        self.target = os.path.join(directory, "socket")
        with open(f"{directory}/log", "w") as log:
            daemon = programs.start([f"{build}/samepaged", "--socket", self.target], stdin=subprocess.DEVNULL,
                                    stderr=log)
        self.pids = [daemon.pid]
        self.daemon = daemon.pid
        deadline = time.monotonic() + 10
        while not os.path.exists(self.target):
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise Failure(f"samepaged did not start (exit status {daemon.poll()}): {read(directory + '/log')}")
            time.sleep(0.01)

    def command(self, workload):
        return [f"{self.build}/samepage", "run", *self.advised, "--socket", self.target, "--", *workload]

    def end(self):
        pass


# ---- a repetition -------------------------------------------------------------------------------------------------


def possible_pages(workload, mib):
    pages = (mib << 20) // PAGE
    return (PROCESSES - 1) * (pages if workload == "same" else pages // 10)


def poll_command(args, side, pages, timeout):
    return [f"{args.build}/bench/poll", side.target, str(pages), str(timeout)]


def snapshot(side, pids):
    return {"cpu": machine_cpu_seconds(), "own": process_cpu_seconds(pids), "charged": charged_bytes(pids, side.daemon),
            "memory": memory_bytes()}


def measure(args, side, programs, workers, areas, possible):
    """From the word go to 99 % of the possible saving, and what the machine does in the time after that."""
    pids = descendants(side.pids + [w.pid for w in workers])
    poll = programs.start(poll_command(args, side, int(possible * REACH) + 1, args.timeout) + areas)
    start = snapshot(side, pids)
    t0 = time.monotonic()
    for w in workers:
        say(w, "go")
    result = poll.stdout.readline()
    reached = snapshot(side, pids)
    if poll.wait() == 2 or not result:
        raise Failure("the poller could not look")
    result = json.loads(result)
    for w in workers:
        expect(w, "advised")
    t1 = time.monotonic()
    time.sleep(PAUSE_SECONDS)
    settled = snapshot(side, pids)
    if not result["reached"]:
        raise Failure(f"{side.name}: {result['saved_pages']} of {possible} pages after {args.timeout} s: {result}")

    return {
        "seconds": result["at_ns"] / 1e9 - t0,
        "cpu_seconds": reached["cpu"] - start["cpu"],
        "own_cpu_seconds": reached["own"] - start["own"],
        "poll_cpu_seconds": result["poll_cpu_ns"] / 1e9,
        "saved_bytes": start["charged"] - settled["charged"],
        "saved_bytes_when_reached": start["charged"] - reached["charged"],
        "machine_saved_bytes": start["memory"]["used"] - settled["memory"]["used"],
        "available_more_bytes": settled["memory"]["available"] - start["memory"]["available"],
        "cpus_busy_after": (settled["cpu"] - reached["cpu"]) / (time.monotonic() - t1),
    }


def repetition(args, side_type, workload):
    possible = possible_pages(workload, args.mib)
    with tempfile.TemporaryDirectory(prefix="samepage-bench-") as directory, Programs() as programs:
        background = background_cpu()
        side = side_type(args.build, programs, directory)
        try:
            workers = [
                programs.start(side.command([f"{args.build}/bench/workload", workload, str(args.mib), str(seed)]),
                               stdin=subprocess.PIPE) for seed in range(1, PROCESSES + 1)
            ]
            areas = [word for w in workers for word in expect(w, "ready")]
            r = measure(args, side, programs, workers, areas, possible)
            managed = PROCESSES * (args.mib << 20) // PAGE
            r |= {"background_cpus": background, "possible_bytes": possible * PAGE,
                  "own_bytes_per_page": (possible * PAGE - r["saved_bytes"]) / managed}
            if side.name == "samepage":
                look = subprocess.run(poll_command(args, side, 0, 1), capture_output=True, text=True, check=True)
                r["status"] = json.loads(look.stdout)
            for w in workers:
                say(w, "check")
            for w in workers:
                expect(w, "ok")
            for w in workers:
                say(w, "quit")
                if w.wait(60) != 0:
                    raise Failure(f"a process ended with status {w.returncode}")
        finally:
            side.end()
    floor = MEMORY_FLOOR * r["possible_bytes"] - OWN_BYTES_PER_PAGE * managed
    for key in ("saved_bytes", "saved_bytes_when_reached"):
        if r[key] < floor:
            raise Failure(f"{side.name}: the kernel's account of memory shows {r[key] >> 20} MiB saved of "
                          f"{r['possible_bytes'] >> 20} MiB, whatever the counters say ({key})")
    return r


# ---- results ------------------------------------------------------------------------------------------------------


def spread(runs, key, unit=1.0):
    values = [r[key] / unit for r in runs]
    return statistics.median(values), min(values), max(values)


def cell(runs, key, digits, unit=1.0):
    median, low, high = spread(runs, key, unit)
    return f"{median:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


ROWS = [
    ("time to 99 %, s", "seconds", 3, 1.0, True),
    ("CPU of the machine, s", "cpu_seconds", 2, 1.0, True),
    ("CPU of the processes concerned, s", "own_cpu_seconds", 3, 1.0, True),
    ("memory saved, net, MiB", "saved_bytes", 1, 1 << 20, False),
    ("missing to the possible, B/page managed", "own_bytes_per_page", 1, 1.0, False),
    ("the same by AnonPages + Shmem, MiB", "machine_saved_bytes", 1, 1 << 20, False),
    ("MemAvailable grew by, MiB", "available_more_bytes", 1, 1 << 20, False),
    ("CPUs busy in the 2 s after", "cpus_busy_after", 2, 1.0, False),
    ("CPU of the poller, s", "poll_cpu_seconds", 3, 1.0, False),
    ("CPUs busy by others before", "background_cpus", 2, 1.0, False),
]


def freeze_row(runs):
    return "p50 {:.0f}, p99 {:.0f}, longest {:.0f}".format(
        *(max(r["status"][k] for r in runs) / 1e3 for k in ("freeze_p50_ns", "freeze_p99_ns", "freeze_max_ns")))


def table(results, workload):
    """Rows of text: label, KSM, samepage, ratio."""
    sides = results[workload]
    rows = []
    for label, key, digits, unit, ratio in ROWS:
        row = [label] + [cell(sides[s], key, digits, unit) if s in sides else "-" for s in ("ksm", "samepage")]
        both = ratio and len(sides) == 2
        row.append("{:.3f}".format(ratio_of(sides, key)) if both else "")
        rows.append(row)
    if "samepage" in sides:
        rows.append(["a page's owner waits (freeze), us", "not known", freeze_row(sides["samepage"]), ""])
    return rows


def ratio_of(sides, key):
    return spread(sides["samepage"], key)[0] / max(spread(sides["ksm"], key)[0], 1e-9)


def title(args, workload):
    what = {"same": "identical, in the same order", "tenth": "the first tenth identical, in the same order, "
            "the rest unique", "scattered": "a tenth common, page by page at different places; the rest unique"}[workload]
    return f"{workload}: {PROCESSES} processes x {args.mib} MiB, {what}; {args.repetitions} repetitions"


def print_text(args, results):
    for workload in results:
        print(f"\n{title(args, workload)}; median (lowest-highest)")
        print(f"{'':42}{'KSM flat out':>26}{'samepage':>38}{'ratio':>9}")
        for label, ksm, ours, ratio in table(results, workload):
            print(f"{label:42}{ksm:>26}{ours:>38}{ratio:>9}")


def print_markdown(args, results, machine, out):
    out.write("# Benchmark: samepage beside KSM\n\n"
              "Written by `bench/run.py --markdown`: how it is measured stands at the top of that file.\n\n")
    out.write("{cpu}, {cpus} CPUs, {memory_mib} MiB, Linux {kernel} {machine}, {date}.\n".format(**machine))
    out.write("KSM flat out: pages_to_scan 100000, sleep_millisecs 0. samepage: its defaults. "
              "Median (lowest-highest).\n")
    for workload in results:
        out.write(f"\n## {title(args, workload)}\n\n| | KSM flat out | samepage | ratio |\n| --- | --- | --- | --- |\n")
        for row in table(results, workload):
            out.write("| " + " | ".join(row) + " |\n")
    out.write("\n## Targets\n\n" + "".join(f"- {text}\n" for text, _ in verdicts(results)))


def verdicts(results):
    """For each target: a line that says how it went, and whether it was met."""
    for workload, sides in results.items():
        if len(sides) < 2 or not TARGETS[workload]:
            continue
        # Both accounts of CPU: other programs on the machine could hide a miss in the first.
        for key, what in (("seconds", "time"), ("cpu_seconds", "CPU of the machine"),
                          ("own_cpu_seconds", "CPU of the processes")):
            ratio, target = ratio_of(sides, key), TARGETS[workload]
            met = ratio <= target
            yield f"{workload}: {what} is {ratio:.3f} of KSM's, target {target:.3f}: {'met' if met else 'MISSED'}", met


# ---- main -----------------------------------------------------------------------------------------------------------


def arguments():
    p = argparse.ArgumentParser(description="samepage beside the kernel's KSM flat out", allow_abbrev=False)
    p.add_argument("--build", default=f"{TOP}/build", help="build directory (%(default)s)")
    p.add_argument("--repetitions", type=int, default=3)
    p.add_argument("--mib", type=int, default=256, help="memory of each process (%(default)s)")
    p.add_argument("--timeout", type=int, default=120, help="seconds to wait for 99 %% (%(default)s)")
    p.add_argument("--only", choices=["ksm", "samepage"], help="one side only; then nothing is compared")
    p.add_argument("--workload", choices=list(TARGETS), action="append", help="default: all")
    p.add_argument("--no-gate", action="store_true", help="exit with 0 also when a target is missed")
    p.add_argument("--json", metavar="FILE", help="write every figure of every repetition to FILE")
    p.add_argument("--markdown", metavar="FILE", nargs="?", const=f"{TOP}/bench/RESULTS.md",
                   help="write the tables to FILE (bench/RESULTS.md)")
    args = p.parse_args()
    args.build = os.path.abspath(args.build)
    return args


def check_prerequisites(args):
    if os.geteuid() != 0:
        raise Failure("root is needed: KSM's settings are changed for the run")
    if not os.path.exists(KSM + "run"):
        raise Failure("this kernel has no KSM: nothing to compare with")
    names = ["bench/workload", "bench/poll"] + ([] if args.only == "ksm" else ["samepage", "samepaged"])
    for name in names:
        if not shutil.which(f"{args.build}/{name}"):
            raise Failure(f"{args.build}/{name} is missing: make build")
    need_mib = PROCESSES * args.mib * 5 // 4 + 256
    if memory_bytes()["available"] >> 20 < need_mib:
        raise Failure(f"{need_mib} MiB of memory are needed")


def run_all(args):
    results = {}
    sides = [s for s in (Ksm, Samepage) if args.only in (None, s.name)]
    for workload in args.workload or TARGETS:
        results[workload] = {s.name: [] for s in sides}
        for i in range(args.repetitions):
            for side in sides:
                r = repetition(args, side, workload)
                results[workload][side.name].append(r)
                noise = "" if r["background_cpus"] < 0.05 else \
                    f"  (others kept {r['background_cpus']:.2f} CPUs busy just before)"
                print(f"{workload} {i + 1}/{args.repetitions} {side.name:8} {r['seconds']:7.3f} s  "
                      f"{r['cpu_seconds']:6.2f} CPU-s  {r['saved_bytes'] >> 20} MiB saved, "
                      f"all memory intact{noise}", flush=True)
    return results


def main():
    def end(number, _frame):
        sys.exit(128 + number)

    for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(s, end)
    args = arguments()
    machine = machine_description()
    try:
        check_prerequisites(args)
        print("{cpu}, {cpus} CPUs, {memory_mib} MiB, Linux {kernel} {machine}".format(**machine))
        with ksm_settings(), mapping_limit((args.mib << 20) // PAGE):
            results = run_all(args)
    except Failure as e:
        print(f"bench: {e}", file=sys.stderr)
        return 1
    print_text(args, results)
    print()
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"machine": machine, "arguments": vars(args), "results": results}, f, indent=1)
    if args.markdown:
        from indexes import kept_section  # which needs this file
        others = kept_section(args.markdown)
        with open(args.markdown, "w") as f:
            print_markdown(args, results, machine, f)
            f.write("\n" + others if others else "")
    for text, _ in verdicts(results):
        print(text)
    return 0 if args.no_gate or all(met for _, met in verdicts(results)) else 1


if __name__ == "__main__":
    sys.exit(main())
