# SPDX-License-Identifier: MIT
"""What is to be reached, and whether it was: computed from the medians of a run, never typed in."""

import dataclasses
import statistics
import typing


def values(runs, key):
    return [r[key] for r in runs if r.get(key) is not None]


def median(runs, key):
    """None where no run has the figure, or where some did not get there at all."""
    found = values(runs, key)
    return statistics.median(found) if found and len(found) == len(runs) else None


class Results:
    """Medians of one workload: r("samepage", "seconds"). None propagates by Missing."""

    def __init__(self, sides):
        self.sides = sides

    def __call__(self, side, key):
        found = median(self.sides.get(side, []), key)
        if found is None:
            raise Missing(f"{side} has no figure for it")
        return found

    def ratio(self, key, to="ksm", other_key=None):
        return self("samepage", key) / max(self(to, other_key or key), 1e-9)

    def of_list(self, key, place):
        """Median of one of the figures in the lists of samepage's runs."""
        found = values(self.sides["samepage"], key)
        if not found:
            raise Missing(f"samepage has no {key}")
        return statistics.median(v[place] for v in found)


class Missing(Exception):
    """A figure that there is not."""


@dataclasses.dataclass(frozen=True)
class Target:
    workload: str
    what: str
    figure: typing.Callable  # of Results
    bound: float
    at_least: bool = False
    form: str = "{:.3f}"


def faster(workload, seconds, cpu):
    return [Target(workload, "time to 99 %, of KSM's", lambda r: r.ratio("seconds"), seconds),
            Target(workload, "CPU of the machine, of KSM's", lambda r: r.ratio("cpu_seconds"), cpu),
            Target(workload, "CPU of the processes concerned, of KSM's", lambda r: r.ratio("own_cpu_seconds"), cpu)]


def saved(workload):
    return [Target(workload, "saved, of the possible pages", lambda r: r("samepage", "saved_share"), 0.99, True)]


def frozen(workload):
    return [Target(workload, "freeze p99 while a CPU is free, us", lambda r: r.of_list("freeze_alone_us", 1), 250,
                   form="{:.0f}")]


def own_memory(workload, bound):
    return [Target(workload, "own memory (all that is missing to the possible, and mappings), B/page managed",
                   lambda r: r("samepage", "own_bytes_all_per_page"), bound, form="{:.1f}")]


def quiet(workload, percent):
    return [Target(workload, "CPU when nothing changes, % of one", lambda r: r("samepage", "idle_cpu_percent"), percent,
                   form="{:.2f}"),
            Target(workload, "a new duplicate is found after, s", lambda r: r("samepage", "found_longest_seconds"), 5)]


def written(workload):
    return [Target(workload, "saved in the mean, of what KSM with a pause of 1 s saves",
                   lambda r: r.ratio("saved_mean_bytes", "ksm-delay"), 1, True),
            Target(workload, "CPU of the machine, of that with KSM with a pause of 1 s",
                   lambda r: r.ratio("window_cpu_seconds", "ksm-delay"), 1),
            Target(workload, "saved in the mean, of what KSM flat out saves",
                   lambda r: r.ratio("saved_mean_bytes"), 1, True),
            Target(workload, "CPU of the machine, of that with KSM flat out",
                   lambda r: r.ratio("window_cpu_seconds"), 1)]


def unmodified(workload):
    return [Target(workload, "saved, of what KSM saves", lambda r: r.ratio("saved_bytes"), 0.9, True),
            Target(workload, "time to 90 % of that, of KSM's to 99 %", lambda r: r.ratio("reach_seconds"), 0.25)]


def victim(workload):
    return [Target(workload, "settled throughput, of the unmanaged",
                   lambda r: r.ratio("settled_ops", "nobody"), 0.98, True),
            Target(workload, "settled p99, of the unmanaged", lambda r: r.ratio("settled_p99", "nobody"), 1.2),
            Target(workload, "throughput while sharing, of the unmanaged",
                   lambda r: r.ratio("sharing_ops", "nobody"), 0.9, True)]


TARGETS = [
    *faster("same", 1 / 4, 1 / 4), *saved("same"), *frozen("same"), *own_memory("same", 40),
    *faster("tenth", 1 / 20, 1 / 20), *saved("tenth"), *frozen("tenth"), *own_memory("tenth", 40),
    *faster("shuffled", 1.0, 1.3), *frozen("shuffled"),
    *faster("last", 1 / 10, 1 / 10),
    *faster("huge", 1 / 6, 1 / 8), *saved("huge"),
    Target("huge", "shared memory that is mapped huge", lambda r: r("samepage", "huge_share"), 0.95, True),
    *quiet("quiet-same", 0.2), *quiet("quiet-shuffled", 2),
    *written("writers-1000"), *written("writers-20000"),
    Target("family", "memory that is shared 1 s after the last is ready",
           lambda r: r("samepage", "shared_share"), 0.9, True),
    *unmodified("python"), *unmodified("node"), *unmodified("redis"), *unmodified("redis-text"),
    *unmodified("redis-large"),
    Target("guests", "memory of a guest, the kernel's own for sharing it included, of that under KSM",
           lambda r: r.ratio("all_each_bytes"), 1),
    Target("guests", "time to 99 % of what KSM saves, of KSM's", lambda r: r.ratio("reach_seconds"), 0.25),
    *victim("victim-redis-get"), *victim("victim-redis-set"), *victim("victim-compiler"), *victim("victim-sequential"),
    *victim("victim-random"),
]


def verdicts(results):
    """(workload, text, whether it was met) of each target whose workload was run on the sides that it needs."""
    for t in TARGETS:
        sides = results.get(t.workload)
        if not sides or "samepage" not in sides:
            continue
        sign = "at least" if t.at_least else "at most"
        text = f"{t.workload}: {t.what}: {{}}, target {sign} {t.form.format(t.bound)}: {{}}"
        try:
            figure = t.figure(Results(sides))
        except Missing as e:
            if all(side in sides for side in ("ksm", "samepage")) or "nobody" in sides:
                yield t.workload, text.format(f"no figure ({e})", "MISSED"), False
            continue
        met = figure >= t.bound if t.at_least else figure <= t.bound
        yield t.workload, text.format(t.form.format(figure), "met" if met else "MISSED"), met
