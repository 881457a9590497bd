# SPDX-License-Identifier: MIT
"""Results as tables: a row for each figure that any side has, the median of the repetitions and the lowest and highest.
The same rows for the terminal and for RESULTS.md."""

import statistics

from .sides import TITLES
from .targets import median, values

MIB = 1 << 20
# Label, key, digits, unit, whether the ratio to KSM says something. In the order in which they are shown; each workload
# has some of them.
ROWS = [
    ("time to 50 %, s", "seconds_50", 3, 1, True),
    ("time to 90 %, s", "seconds_90", 3, 1, True),
    ("time to 99 %, s", "seconds", 3, 1, True),
    ("time to 99 % of what KSM saves (samepage: to 90 %, of guests 99 %), s", "reach_seconds", 3, 1, True),
    ("saved of the possible pages", "saved_share", 4, 1, False),
    ("CPU of the machine, s", "cpu_seconds", 3, 1, True),
    ("CPU of the processes concerned, s", "own_cpu_seconds", 3, 1, True),
    ("CPU of ksmd or the daemon, s", "side_cpu_seconds", 3, 1, True),
    ("CPU of who merges, nothing changes, % of one", "idle_cpu_percent", 3, 1, True),
    ("CPU of the machine then, % of one", "machine_cpu_percent", 2, 1, False),
    ("a new duplicate is shared after, s", "found_seconds", 2, 1, False),
    ("the longest such time, s", "found_longest_seconds", 2, 1, False),
    ("CPU of the machine in the window, s", "window_cpu_seconds", 2, 1, True),
    ("CPU of the processes concerned in it, s", "window_own_cpu_seconds", 2, 1, True),
    ("saved in the mean, MiB", "saved_mean_bytes", 1, MIB, True),
    ("saved at the end, MiB", "saved_end_bytes", 1, MIB, True),
    ("programs ready after, s", "ready_seconds", 2, 1, False),
    ("memory charged, MiB", "charged_bytes", 1, MIB, False),
    ("memory charged for each, MiB", "charged_each_bytes", 1, MIB, True),
    ("the kernel's own for it (KSM: rmap items; mappings, 210 B each), MiB", "kernel_bytes", 1, MIB, False),
    ("memory for each, both together, MiB", "all_each_bytes", 1, MIB, True),
    ("memory saved, net, MiB", "saved_bytes", 1, MIB, False),
    ("saved, of the memory unmanaged", "saved_of_unmanaged", 3, 1, False),
    ("shared of the memory", "shared_share", 3, 1, False),
    ("pages counted as saved", "saved_pages", 0, 1, False),
    ("missing to the possible, B/page managed", "own_bytes_per_page", 1, 1, False),
    ("of it the index, B/page managed", "index_bytes_per_page", 1, 1, False),
    ("what clients have mapped for themselves, B/page managed", "client_bytes_per_page", 1, 1, False),
    ("the kernel's, for mappings (210 B each), B/page managed", "mapping_bytes_per_page", 1, 1, False),
    ("saved by AnonPages + Shmem, MiB", "machine_saved_bytes", 1, MIB, False),
    ("MemAvailable grew by, MiB", "available_more_bytes", 1, MIB, False),
    ("mappings added", "mappings_added", 0, 1, False),
    ("mappings for each shared GiB", "mappings_per_gib", 0, 1, False),
    ("of what is shared, mapped huge", "huge_share", 3, 1, False),
    ("CPUs busy in the time after", "cpus_busy_after", 2, 1, False),
    ("CPU of the poller, s", "poll_cpu_seconds", 3, 1, False),
    ("CPUs busy by others before", "background_cpus", 2, 1, False),
    ("settled: operations a second", "settled_ops", 0, 1, False),
    ("settled: p50, us", "settled_p50", 2, 1, False),
    ("settled: p99, us", "settled_p99", 2, 1, False),
    ("settled: longest, us", "settled_max", 0, 1, False),
    ("while sharing: operations a second", "sharing_ops", 0, 1, False),
    ("while sharing: p50, us", "sharing_p50", 2, 1, False),
    ("while sharing: p99, us", "sharing_p99", 2, 1, False),
    ("while sharing: longest, us", "sharing_max", 0, 1, False),
]
# Lists of p50, p99 and longest: the worst of all runs.
WORST_ROWS = [("a page's owner waits (freeze), us", "freeze_us"), ("that of the last process, alone, us", "freeze_alone_us"),
              ("a read of a prober while merging, us", "probe_us")]


def cell(runs, key, digits, unit=1.0):
    found = [v / unit for v in values(runs, key)]
    if not found:
        shares = values([r for r in runs if key in r], "saved_share")
        never = "never" if any(key in r for r in runs) else ""
        return f"never: {100 * statistics.median(shares):.1f} % saved" if shares else never
    text = f"{statistics.median(found):.{digits}f}"
    if len(runs) > 1:
        text += f" ({min(found):.{digits}f}-{max(found):.{digits}f})"
    return text if len(found) == len(runs) else f"{text}, {len(runs) - len(found)} of {len(runs)} never"


def worst(runs, key):
    found = values(runs, key)
    if not found:
        return ""
    return "p50 {:.1f}, p99 {:.1f}, longest {:.0f}".format(*map(max, zip(*found)))


def ratio(sides, key):
    ours, theirs = median(sides.get("samepage", []), key), median(sides.get("ksm", sides.get("ksm-delay", [])), key)
    return f"{ours / theirs:.3f}" if ours is not None and theirs else ""


def table(sides):
    """Rows of text: label, one cell for each side, ratio of samepage to KSM."""
    for label, key, digits, unit, compared in ROWS:
        cells = [cell(runs, key, digits, unit) for runs in sides.values()]
        if any(cells):
            yield [label, *cells, ratio(sides, key) if compared else ""]
    for label, key in WORST_ROWS:
        cells = [worst(runs, key) for runs in sides.values()]
        if any(cells):
            yield [label, *cells, ""]


def titles(sides):
    return [TITLES[s] for s in sides] + ["ratio"]


def text(heading, sides):
    rows = [["", *titles(sides)], *table(sides)]
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    yield f"\n{heading}; median (lowest-highest)"
    for row in rows:
        yield "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))])


def markdown(sides):
    names = titles(sides)
    yield "| | " + " | ".join(names) + " |"
    yield "|" + " --- |" * (len(names) + 1)
    for row in table(sides):
        yield "| " + " | ".join(row) + " |"
