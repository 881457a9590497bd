# SPDX-License-Identifier: MIT
"""Workloads that are measured on their way: some processes of bench/workload whose memory is to be merged.

A repetition goes like this:

    start the processes, wait until their memory is filled
    t0: tell all of them to advise their memory (MADV_MERGEABLE)
    a small C program (poll) looks every 5 ms until 99 % of the possible saving is reached: t1 (for samepage
    not only promised by the daemon's counter, but done in the processes' page tables)
    the machine's CPU time and memory at t0 and t1, and once more after a pause
    every process compares every byte of its memory with what it should be

The times to 50 and 90 % are those of the counters alone. CPU is that of the whole machine between t0 and t1
(all that is not idle: scanner, daemon, faults of the programs, the kernel's own threads; by the scheduler's account of
all tasks, or where there is none by /proc/stat, in ticks of 10 ms) without what the instruments take (this script and the
poller), and beside it that of the processes concerned. Memory saved is not taken from anybody's counters: it is what
the kernel charges to these processes (the sum of Pss, which counts a shared page once) and to the store, daemon
included, so what samepage needs for itself is subtracted. AnonPages + Shmem of the whole machine stand beside it;
other programs move that figure too.

How long a program waits for its memory meanwhile is measured in a repetition of its own, whose other figures count
for nothing: there one process reads a word of a random page every millisecond. In another one of samepage the
processes advise their memory one after the other, each when those before it are done, and the freezes of the last are
looked at: then its worker and the daemon are all that works, and neither waits for a CPU.
"""

import contextlib
import json
import subprocess
import tempfile
import time

from . import machine, settings, sides
from .machine import PAGE, Failure
from .programs import Programs, expect, quit_all, say, tell_all

PROCESSES = 4
REACH = 0.99
# What the kernel charges must show at least this much of the possible saving, less what the merging may need for
# itself: for each page it manages, saved or not, and for being there (daemon and workers).
MEMORY_FLOOR = 0.95
OWN_BYTES_PER_PAGE = 100
OWN_BYTES = 16 << 20
# What one mapping takes of the kernel's memory: struct vm_area_struct and its share of a maple node.
MAPPING_BYTES = 210


class Group:
    """The running processes of a repetition."""

    def __init__(self, context, side, programs, w, mib, spare_pages=0, image=None):
        self.context, self.side, self.w = context, side, w
        more = [str(spare_pages)] + ([image] if image else [])
        words = [context.tool("workload"), w.pattern, str(mib)]
        self.workers = [side.start([*words, str(seed), *more]) for seed in range(1, w.processes + 1)]
        self.areas = [expect(p, "ready") for p in self.workers]
        self.pids = machine.descendants(list(side.pids) + [p.pid for p in self.workers])
        self.pages = sum(int(pages) for _, _, pages in self.areas)
        # Only the programs themselves: whose mappings are counted.
        self.area_pids = [int(pid) for pid, _, _ in self.areas]
        if w.huge:
            self.need_huge_pages()

    def need_huge_pages(self):
        for pid, (_, _, pages) in zip(self.area_pids, self.areas):
            if machine.anonymous_huge_bytes(pid) < 0.9 * int(pages) * PAGE:
                raise Failure("the kernel gave no huge pages: not enough free memory in one piece")

    def poll(self, pages, seconds, programs):
        words = [word for area in self.areas for word in area]
        return programs.start(poll_command(self.context, self.side, pages, seconds) + words)

    def snapshot(self):
        # What this script takes for looking, at the memory of all processes for one, is not the machine's work.
        return {"cpu": machine.cpu_seconds() - time.process_time(), "own": machine.process_cpu_seconds(self.pids),
                "charged": machine.charged_bytes(self.pids, self.side.daemon), "memory": machine.memory_bytes(),
                "mappings": machine.mappings(self.area_pids)}

    def check(self):
        tell_all(self.workers, "check", "ok")


def poll_command(context, side, pages, seconds):
    return [context.tool("poll"), side.target, str(pages), str(seconds)]


def poll_answer(poll):
    line = poll.stdout.readline()
    if poll.wait() == 2 or not line:
        raise Failure("the poller could not look")
    return json.loads(line)


def look(context, side):
    """Counters as they are now."""
    out = subprocess.run(poll_command(context, side, 0, 1), capture_output=True, text=True, check=False).stdout
    if not out:
        raise Failure("the poller could not look")
    return json.loads(out)


def curve_of(told, t0):
    return [(round(at / 1e9 - t0, 4), pages) for at, pages in told["curve"]]


def time_to(curve, pages):
    return next((t for t, p in curve if p >= pages), None)


def converge(group, programs, possible, seconds):
    """From the word go to 99 % of the possible, or until the time is over: t0 and what the poller tells."""
    poll = group.poll(int(possible * REACH) + 1, seconds, programs)
    t0 = time.monotonic()
    for p in group.workers:
        say(p, "go")
    return t0, poll_answer(poll)


def measure(context, group, programs, possible, seconds):
    """The way to 99 %, and what the machine does in the time after that."""
    start = group.snapshot()
    t0, told = converge(group, programs, possible, seconds)
    reached = group.snapshot()
    for p in group.workers:
        expect(p, "advised")
    t1 = time.monotonic()
    time.sleep(context.pause_seconds)
    settled = group.snapshot()
    saved = poll_answer(group.poll(0, 1, programs))["saved_pages"]
    curve = curve_of(told, t0)
    r = {
        "seconds_50": time_to(curve, 0.5 * possible),
        "seconds_90": time_to(curve, 0.9 * possible),
        "seconds": told["at_ns"] / 1e9 - t0 if told["reached"] else None,
        "cpu_seconds": reached["cpu"] - start["cpu"] - told["poll_cpu_ns"] / 1e9,
        "own_cpu_seconds": reached["own"] - start["own"],
        "poll_cpu_seconds": told["poll_cpu_ns"] / 1e9,
        "saved_share": saved / possible,
        "saved_bytes": start["charged"] - settled["charged"],
        "saved_bytes_when_reached": start["charged"] - reached["charged"],
        "machine_saved_bytes": start["memory"]["used"] - settled["memory"]["used"],
        "available_more_bytes": settled["memory"]["available"] - start["memory"]["available"],
        "cpus_busy_after": (settled["cpu"] - reached["cpu"]) / (time.monotonic() - t1),
        "mappings_added": settled["mappings"] - start["mappings"],
        "possible_bytes": possible * PAGE,
        "managed_pages": group.pages,
        "curve": curve,
    }
    r["own_bytes_per_page"] = (r["possible_bytes"] - r["saved_bytes"]) / group.pages
    return r


def samepage_figures(context, group, r):
    """What only samepage tells: its memory, its mappings, how long pages were frozen."""
    status = look(context, group.side)
    c = status["counters"]
    shared_bytes = (c["pages_sharing"] + c["pages_shared"]) * PAGE
    r |= {"freeze_us": [status[k] / 1e3 for k in ("freeze_p50_ns", "freeze_p99_ns", "freeze_max_ns")],
          "index_bytes_per_page": c["index_bytes"] / group.pages,
          "client_bytes_per_page": c["own_bytes"] / group.pages,
          "mapping_bytes_per_page": max(0, r["mappings_added"]) * MAPPING_BYTES / group.pages,
          "status": status}
    r["own_bytes_all_per_page"] = r["own_bytes_per_page"] + r["mapping_bytes_per_page"]
    if shared_bytes:
        r["mappings_per_gib"] = r["mappings_added"] / (shared_bytes / (1 << 30))


def require_memory(group, r):
    """The counters cannot be wrong about what the kernel charges."""
    floor = MEMORY_FLOOR * r["possible_bytes"] - OWN_BYTES_PER_PAGE * group.pages - OWN_BYTES
    for key in ("saved_bytes", "saved_bytes_when_reached"):
        if r[key] < floor:
            raise Failure(f"{group.side.name}: the kernel's account of memory shows {r[key] >> 20} MiB saved of "
                          f"{r['possible_bytes'] >> 20} MiB, whatever the counters say ({key})")


@contextlib.contextmanager
def started(context, name, w, mib, **more):
    """A side and a group that it will merge."""
    with tempfile.TemporaryDirectory(prefix="sp-bench-") as directory, Programs() as programs:
        background = machine.background_cpus(context.background_seconds)
        side = sides.make(context, name, programs, directory)
        side_cpu = machine.process_cpu_seconds(side.pids)
        try:
            group = Group(context, side, programs, w, mib, **more)
            group.background, group.side_cpu_before = background, side_cpu
            yield group, programs
        finally:
            side.end()


def longest(context, name, w):
    """How long a side may take, and whether it must be there by then."""
    if name in ("ksm-defaults", "ksm-advisor"):
        return context.limit_seconds, False
    return (context.timeout_seconds, True) if w.must_reach else (min(context.limit_seconds, 30), False)


def repetition(context, w, name):
    with started(context, name, w, context.mib) as (group, programs):
        possible = w.possible_pages(context.mib)
        seconds, must = longest(context, name, w)
        r = measure(context, group, programs, possible, seconds)
        if must and r["seconds"] is None:
            raise Failure(f"{w.name}, {name}: {100 * r['saved_share']:.1f} % of the possible after {seconds} s")
        r["background_cpus"] = group.background
        if name == "samepage":
            samepage_figures(context, group, r)
        group.check()
        if w.huge:
            shared, huge = machine.shared_huge(group.area_pids)
            r["huge_share"] = huge / shared if shared else 0.0
        quit_all(group.workers)
    if r["seconds"] is not None:
        require_memory(group, r)
    return r


def probe(context, w, name):
    """Microseconds (p50, p99, longest) of a read while merging goes on, and of how many."""
    with started(context, name, w, context.mib) as (group, programs):
        prober = group.workers[0]
        say(prober, "probe")
        expect(prober, "probing")
        converge(group, programs, w.possible_pages(context.mib), longest(context, name, w)[0])
        for p in group.workers:
            expect(p, "advised")
        say(prober, "probed")
        n, *ns = map(int, expect(prober, "probed"))
        group.check()
    return {"probe_us": [v / 1e3 for v in ns], "probes": n}


def client_done(context, side, pid, pages):
    """Waits until nearly all its pages are merged or known; what is told of it."""
    until = time.monotonic() + context.timeout_seconds
    while time.monotonic() < until:
        told = json.loads(subprocess.run([context.samepage, "status", "--json", "--socket", side.target],
                                         capture_output=True, check=True).stdout)
        for client in (c for t in told["daemons"] for d in t["domains"] for c in d["clients"] if c["pid"] == pid):
            c = client["counters"]
            if client["settled"] and c["pages_merged"] + c["ksm_zero_pages"] + c["pages_unshared"] >= REACH * pages:
                return client
        time.sleep(0.05)
    raise Failure(f"process {pid} was not merged after {context.timeout_seconds} s")


def freezes_alone(context, w):
    """Microseconds (p50, p99, longest) of the freezes of the process that comes last."""
    with started(context, "samepage", w, context.mib) as (group, _):
        for p, pid, (_, _, pages) in zip(group.workers, group.area_pids, group.areas):
            say(p, "go")
            expect(p, "advised")
            freeze = client_done(context, group.side, pid, int(pages))["freeze"]
        group.check()
        quit_all(group.workers)
    return {"freeze_alone_us": [freeze[k] / 1e3 for k in ("p50_ns", "p99_ns", "max_ns")]}


def round_of(context, w, names, number):
    """One repetition on each side; the first one of a side is followed by the prober's."""
    results = {}
    for name in names:
        results[name] = repetition(context, w, name)
        if number == 0 and context.probe:
            results[name] |= probe(context, w, name)
        if name == "samepage" and w.must_reach and context.probe:
            results[name] |= freezes_alone(context, w)
    return results
