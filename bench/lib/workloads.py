# SPDX-License-Identifier: MIT
"""The table of workloads. An entry says what there is to merge, which sides stand beside each other, and which module
measures it (`round`: one repetition on all sides)."""

import dataclasses
import shutil
import typing

from . import family, guests, merging, steady, unmodified, victims
from .machine import PAGE

BOTH = ("ksm", "samepage")
UNMANAGED_TOO = ("nobody", "ksm", "samepage")


@dataclasses.dataclass(frozen=True)
class Workload:
    name: str
    what: str
    round: typing.Callable  # (context, workload, sides, number of the repetition): {side: figures}
    sides: tuple = BOTH
    other_settings: bool = False  # KSM in other settings can stand beside it
    pattern: str = ""  # of bench/workload
    processes: int = 4
    saved_copies: float = 0  # of the memory of one process: what is possible
    mappings_per_page: float = 0.4  # of vm.max_map_count, so that what may be used of it is enough
    huge: bool = False
    must_reach: bool = True  # 99 % of the possible; it is a failure not to
    size: str = "mib"  # which of the context's sizes a process has
    writes_per_second: int = 0
    program: typing.Any = None
    instances: typing.Callable = None  # of the program
    unmanaged: int = 0  # so many of them at most where nobody merges
    wanted_share: float = 0.9  # of what KSM saves: samepage's time is that to there
    needs: tuple = ()  # commands
    each_mib: int = 128  # memory of an instance, for programs
    longest_rounds: int = 1000
    longest_seconds: int = 180  # until nothing grows any more

    def possible_pages(self, mib):
        return int(self.saved_copies * ((mib << 20) // PAGE)) - (self.pattern == "zero")

    def memory_mib(self, context):
        """What must be there."""
        if self.program:
            n = self.instances(context) if self.instances else 4
            return n * self.each_mib + 256
        return self.processes * getattr(context, self.size) * 5 // 4 + 256

    def pages_per_process(self, context):
        return ((self.each_mib if self.program else getattr(context, self.size)) << 20) // PAGE

    def missing(self, context):
        """Why it cannot run here, or None."""
        for command in self.needs:
            if not shutil.which(command):
                return f"{command} is missing (Debian: {DEBIAN[command]})"
        if self.program is guests.Guests and not context.guest_files:
            return "guests need --guest-files: demo/prepare of the source tree fetches them"
        return None


DEBIAN = {"redis-server": "redis-server", "redis-cli": "redis-tools", "redis-benchmark": "redis-tools",
          "node": "nodejs", "gcc": "gcc", "qemu-system-x86_64": "qemu-system-x86"}
REDIS = ("redis-server", "redis-cli", "redis-benchmark")


def merged(name, what, copies, **more):
    return Workload(name, "4 processes x {mib} MiB, " + what, merging.round_of, pattern=more.pop("pattern", name),
                    other_settings=True, saved_copies=copies, **more)


def quiet(name, pattern, mappings):
    return Workload(name, f"4 processes x {{steady_mib}} MiB as {pattern}, merged; nobody writes for "
                    "{steady_seconds:g} s, then 1 MiB of new duplicates, twice", steady.quiet_round,
                    ("ksm-delay", "samepage"), pattern=pattern, saved_copies=3, mappings_per_page=mappings,
                    size="steady_mib")


def writers(rate):
    return Workload(f"writers-{rate}", f"4 processes x {{mib}} MiB as same, merged; {rate} random page writes a second "
                    "together, for {steady_seconds:g} s", steady.written_round,
                    ("nobody", "ksm-delay", "ksm", "samepage"), pattern="same", saved_copies=3, mappings_per_page=4,
                    writes_per_second=rate)


def programs(name, what, program, instances, **more):
    return Workload(name, what, unmodified.round_of, UNMANAGED_TOO, program=program, instances=instances, **more)


def victim(name, what, program, needs=()):
    return Workload(f"victim-{name}", what, victims.round_of, UNMANAGED_TOO, program=program, needs=needs, each_mib=300)


TABLE = {w.name: w for w in (
    merged("same", "identical, in the same order", 3),
    merged("tenth", "the first tenth identical, in the same order, the rest unique", 3 * 0.1),
    merged("scattered", "a tenth common, page by page at different places; the rest unique", 3 * 0.1),
    merged("shuffled", "identical, in a different order in each process", 3, mappings_per_page=4),
    merged("last", "identical, in the same order; all pages equal but for their last 8 bytes", 3),
    merged("zero", "pages of zeros", 4),
    merged("huge", "huge pages, identical, in the same order", 3, huge=True),
    merged("huge-tenth", "huge pages, identical, but a tenth of their 4 KiB pages unique", 4 * 0.9 - (1 - 0.1 ** 4),
           huge=True, must_reach=False, mappings_per_page=4),
    quiet("quiet-same", "same", 0.4),
    quiet("quiet-shuffled", "shuffled", 4),
    writers(1000),
    writers(20000),
    Workload("family", "64 processes, started by exec, each restores the same image of {family_mib} MiB; 1 s after the "
             "last one is ready", family.round_of, UNMANAGED_TOO, pattern="same", processes=64, size="family_mib"),
    programs("python", "8 python3 processes with the same data", unmodified.Python, lambda c: c.small(8)),
    programs("node", "8 node processes with the same data", unmodified.Node, lambda c: c.small(8), needs=("node",)),
    programs("redis", "4 redis-servers with the same data", unmodified.Redis, lambda c: c.small(4), needs=REDIS),
    programs("redis-text", "4 redis-servers with the same data, of digits", unmodified.RedisText, lambda c: c.small(4),
             needs=REDIS),
    programs("redis-large", "4 redis-servers with the same data, of digits, four times as much", unmodified.RedisLarge,
             lambda c: c.small(4), needs=REDIS, each_mib=320),
    programs("guests", "{guests} QEMU guests of {guest_mib} MiB, all alive", guests.Guests, lambda c: c.guests,
             unmanaged=4, wanted_share=0.99, needs=("qemu-system-x86_64",), each_mib=330, longest_rounds=1,
             longest_seconds=900, mappings_per_page=4),
    victim("redis-get", "redis, reads of random keys", victims.RedisGet, REDIS),
    victim("redis-set", "redis, random keys are overwritten", victims.RedisSet, REDIS),
    victim("compiler", "gcc, again and again", victims.Compiler, ("gcc",)),
    victim("sequential", "a page is written, then the next, as fast as it goes", victims.Sequential),
    victim("random", "random pages are written, as fast as it goes", victims.Random),
)}
