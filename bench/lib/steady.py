# SPDX-License-Identifier: MIT
"""The steady state: everything has been merged; what does it cost from then on, and what is left of it?

    quiet       nobody writes for a minute: CPU of who merges (exact, by the scheduler's account). Then 256 spare
                pages of two processes, managed all the time and never shared, get the same new content, twice: how
                long until nine tenths of them are shared. (KSM's smart_scan looks at a page that has had no twin for
                long in every ninth scan only, and must see it twice.)
    writers     random pages are written, so many a second by all processes together. Each write flips a page between
                two contents, the same two in all processes, so that twins remain. CPU of the machine in the window,
                beside that without any merging; what is saved in the mean and at the end of it, by what the kernel
                charges.

KSM flat out keeps a CPU busy for ever, which nobody would let it do: beside it stands KSM with a pause between its
scans as long as our longest one (1 s), in which it scans everything once.
"""

import statistics
import time

from .machine import PAGE, Failure, charged_bytes
from .merging import converge, look, poll_answer, started
from .programs import expect, quit_all, tell_all

NEW_PAGES = 256
NEW_ROUNDS = 2
LONGEST_SEARCH_S = 120
LOOKS = 10


def settle(context, group, programs, w, mib):
    """Converged, and a little longer."""
    if group.side.name == "nobody":
        return
    possible = w.possible_pages(mib)
    _, told = converge(group, programs, possible, context.timeout_seconds)
    for p in group.workers:
        expect(p, "advised")
    if not told["reached"]:
        raise Failure(f"{w.name}, {group.side.name}: {told['saved_pages']} of {possible} pages in time")
    time.sleep(min(5, context.steady_seconds))


def new_duplicate(context, group, programs):
    """Seconds from the last write until nine tenths are shared; None: not in time."""
    target = look(context, group.side)["saved_pages"] + NEW_PAGES * 9 // 10
    tell_all(group.workers[:2], "new", "renewed")
    t0 = time.monotonic()
    told = poll_answer(programs.start([context.tool("poll"), group.side.target, str(target), str(LONGEST_SEARCH_S)]))
    return told["at_ns"] / 1e9 - t0 if told["reached"] else None


def quiet(context, w, name):
    mib = context.steady_mib
    with started(context, name, w, mib, spare_pages=NEW_PAGES * 4) as (group, programs):
        settle(context, group, programs, w, mib)
        before, begin = group.snapshot(), time.monotonic()
        time.sleep(context.steady_seconds)
        after, seconds = group.snapshot(), time.monotonic() - begin
        found = [new_duplicate(context, group, programs) for _ in range(NEW_ROUNDS)]
        group.check()
        quit_all(group.workers)
    return {"idle_cpu_percent": 100 * (after["own"] - before["own"]) / seconds,
            "machine_cpu_percent": 100 * (after["cpu"] - before["cpu"]) / seconds,
            "found_seconds": None if None in found else statistics.median(found),
            "found_longest_seconds": None if None in found else max(found),
            "background_cpus": group.background, "managed_pages": group.pages}


def window(context, group, base):
    """How much is saved, at regular moments while the writers write."""
    begin, curve = time.monotonic(), []
    for i in range(1, LOOKS + 1):
        time.sleep(max(0, begin + i * context.steady_seconds / LOOKS - time.monotonic()))
        saved = base - charged_bytes(group.pids, group.side.daemon)
        curve.append((round(time.monotonic() - begin, 3), saved // PAGE))
    return curve


def written(context, w, name):
    with started(context, name, w, context.mib) as (group, programs):
        base = group.snapshot()["charged"]
        settle(context, group, programs, w, context.mib)
        before, begin = group.snapshot(), time.monotonic()
        tell_all(group.workers, f"write {w.writes_per_second // w.processes}", "writing")
        curve = window(context, group, base)
        after, seconds = group.snapshot(), time.monotonic() - begin
        writes = sum(int(n) for [n] in tell_all(group.workers, "written", "written"))
        group.check()
        quit_all(group.workers)
    if not context.few and writes < 0.9 * w.writes_per_second * seconds:
        raise Failure(f"{w.name}, {name}: only {writes / seconds:.0f} writes a second were possible")
    return {"window_cpu_seconds": after["cpu"] - before["cpu"], "window_own_cpu_seconds": after["own"] - before["own"],
            "saved_mean_bytes": statistics.mean(p for _, p in curve) * PAGE, "saved_end_bytes": curve[-1][1] * PAGE,
            "possible_bytes": w.possible_pages(context.mib) * PAGE, "background_cpus": group.background,
            "curve": [(0, (base - before["charged"]) // PAGE), *curve]}


def quiet_round(context, w, names, _number):
    return {name: quiet(context, w, name) for name in names}


def written_round(context, w, names, _number):
    return {name: written(context, w, name) for name in names}
