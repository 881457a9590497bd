# SPDX-License-Identifier: MIT
"""What stays saved while programs work (load.py), looked at again and again.

Each side has the same programs, started while it already merges. When nothing is merged any more that was not before,
the clock and the load start. Saved is what the kernel charges to a side's programs and its store, daemons included,
against the same programs at work under nobody, of which fewer are enough: at the same moment when the sides run
together, otherwise so long after the beginning.

Sides that run together must not merge each other's memory. samepage only takes what is under it, and each program has a
daemon of its own here; KSM takes what was advised to it, and of no process of another side may it know a single page
(/proc/PID/ksm_stat), which is looked at with each sample.
"""

import contextlib
import os
import re
import sys
import time

from . import machine, settings, sides
from .load import PROGRAMS
from .machine import Failure, read
from .merging import look
from .programs import Programs

SETTLED_SHARE, SETTLED_LOOKS, SETTLE_EVERY_S, SETTLE_LONGEST_S = 1.01, 4, 5, 240
NONE_OF_KSM = {"ksm_rmap_items": "0", "ksm_merging_pages": "0", "ksm_zero_pages": "0"}


class Group:
    """The programs of one kind under one side."""

    def __init__(self, context, name, side, directory):
        self.context, self.side, self.program = context, side, name
        self.n = context.unmanaged if side.name == "nobody" else context.instances
        self.key = f"{name}/{side.name}"
        os.mkdir(directory)
        self.running = PROGRAMS[name](context, directory, self.n)

    def start(self):
        self.running.start(self.side)

    def pids(self):
        return machine.descendants([p.pid for p in self.running.running] + [p for p in [self.side.daemon] if p])

    def charged(self):
        """For as many programs as the other sides have."""
        return machine.charged_bytes(self.pids(), self.side.daemon) * self.context.instances / self.n

    def sample(self):
        r = {"charged_bytes": self.charged()}
        if self.side.daemon:
            counters = look(self.context, self.side)["counters"]
            r |= {"broken_pages": counters["pages_broken"], "pages_over_budget": counters["pages_over_budget"],
                  "cpu_seconds": counters["cpu_ns"] / 1e9 + machine.process_cpu_seconds(self.side.pids)}
        return r

    def must_be_apart(self):
        """Unless it is KSM's, which must not have left us out either."""
        for pid in self.pids():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                stat = dict(re.findall(r"^(\w+):? (\w+)$", read(f"/proc/{pid}/ksm_stat"), re.M))
                known = {k: stat[k] for k, none in NONE_OF_KSM.items() if stat.get(k, none) != none}
                if known and not self.side.name.startswith("ksm"):
                    raise Failure(f"KSM has memory of a process of {self.key}: {known}")
                if self.side.name.startswith("ksm") and "memfd:samepage" in read(f"/proc/{pid}/maps"):
                    raise Failure(f"samepage has memory of a process of {self.key}")


class Sitting:
    """Some sides together, from the start of their programs to the check of their data."""

    def __init__(self, context, names, programs, directory):
        self.context, self.names, self.disturbed = context, names, 0
        # samepage's side switches KSM off when it is made.
        names = sorted(names, key=lambda n: n.startswith("ksm"))
        common = {n: self.side(n, programs, directory) for n in names if n != "samepage"}
        self.groups = []
        for number, program in enumerate(context.programs):
            for name in names:
                own = f"{directory}/{number}-{name}"
                side = common.get(name) or self.samepage(programs, f"{directory}/daemon-{number}")
                self.groups.append(Group(context, program, side, own))
        self.ksm = [side for name, side in common.items() if name.startswith("ksm")]

    def side(self, name, programs, directory):
        return sides.make(self.context, name, programs, directory, everything=True, hold=True)

    def samepage(self, programs, directory):
        os.mkdir(directory)
        return self.side("samepage", programs, directory)

    def switch_on(self):
        for side in {id(g.side): g.side for g in self.groups}.values():
            side.switch_on()

    def start(self):
        if not self.context.hold:
            self.switch_on()
        for group in self.groups:
            group.start()
            self.context.say(f"{group.key}: {group.n} started")
        if self.context.hold:
            self.switch_on()
        self.settle()
        kinds = [[g.running for g in self.groups if g.program == p] for p in self.context.programs]
        self.loads = [PROGRAMS[p].load_of(running, self.context) for p, running in zip(self.context.programs, kinds)]
        for load in self.loads:
            load.start()

    def settle(self):
        """Until what is charged has not fallen by a hundredth for some looks."""
        begin, least, since = time.monotonic(), None, 0
        while since < SETTLED_LOOKS and time.monotonic() - begin < min(SETTLE_LONGEST_S, self.context.settle_seconds):
            time.sleep(min(SETTLE_EVERY_S, self.context.settle_seconds))
            now = sum(g.charged() for g in self.groups)
            since += 1
            if least is None or now * SETTLED_SHARE < least:
                least, since = now, 0

    def sample(self):
        self.keep_ksm_on()
        for g in self.groups:
            g.must_be_apart()
        for load in self.loads:
            load.look()
        r = {g.key: g.sample() for g in self.groups}
        for side in self.ksm:
            r[side.name] = {"cpu_seconds": machine.process_cpu_seconds(side.pids), "broken_pages": broken_by_ksm()}
        return r

    def keep_ksm_on(self):
        if self.ksm and settings.value(settings.KSM + "run") != "1":
            self.disturbed += 1
            print("decay: somebody has switched KSM off: on again", file=sys.stderr, flush=True)
            settings.ksm_run(self.ksm[0].name)

    def watch(self):
        """[(seconds, {group: figures})], the first one just before the load."""
        begin, samples = time.monotonic(), []
        for i in range(self.context.samples + 1):
            time.sleep(max(0, begin + i * self.context.every_seconds - time.monotonic()))
            at = time.monotonic() - begin
            samples.append((round(at, 1), self.sample()))
            self.context.say(line_of(*samples[-1]))
        return samples

    def check(self):
        for load in self.loads:
            load.stop()
        for program in self.context.programs:
            running = [g.running for g in self.groups if g.program == program]
            if hasattr(running[0], "digests") and len(set.union(*(r.digests() for r in running))) != 1:
                raise Failure(f"{program}: the data of the sides differ")
            for r in running:
                r.check()

    def end(self):
        for g in self.groups:
            g.side.end()


def broken_by_ksm():
    """Of the whole machine; kernels before 5.19 do not tell."""
    found = re.search(r"^cow_ksm (\d+)$", read("/proc/vmstat"), re.M)
    return int(found.group(1)) if found else 0


def line_of(at, sample):
    charged = "  ".join(f"{key} {r['charged_bytes'] / (1 << 20):.0f} MiB" for key, r in sample.items()
                        if "charged_bytes" in r)
    return f"{at / 60:5.1f} min  {charged}"


def sitting(context, names, directory):
    with Programs() as programs:
        s = Sitting(context, names, programs, directory)
        try:
            s.start()
            samples = s.watch()
            done = {p: load.done for p, load in zip(context.programs, s.loads)}
            s.check()
        finally:
            s.end()
    return {"samples": samples, "done": done, "disturbed": s.disturbed}
