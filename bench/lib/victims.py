# SPDX-License-Identifier: MIT
"""What programs pay that are at work while others, and they themselves, are merged.

    redis-get, redis-set   two redis-servers with the same 60,000 values; redis-benchmark, 20 connections, reads or
                           overwrites random keys of one of them
    compiler               gcc, again and again, beside two python3 processes with the same data
    sequential, random     two processes with the same memory, of which one writes to its first half as fast as it can

Each side has its own programs, which load while merging is off. Then it is switched on: the first second from then
on is "while sharing" (samepage may be through before it is over, KSM may not). Later, when nothing has grown by a
hundredth for three seconds: "settled", the median of several windows, the longest latency of all of them. In the end
the data are checked."""

import csv
import hashlib
import statistics
import subprocess
import tempfile
import time

from . import machine, sides
from .machine import Failure
from .merging import look
from .programs import Programs, expect, say
from .settings import ksm_full_scans, ksm_saved_pages
from .unmodified import OUR_LOOK_SECONDS, Python, Redis, settle

CONNECTIONS = 20
SHARING_SECONDS = 1.0
OPTIMISATION = "-O1"
# A key as redis-benchmark makes it, and a value that cannot be computed without it.
LOAD = """for i = 0, ARGV[1] - 1 do
    redis.call('set', string.format('key:%012d', i), string.rep(redis.sha1hex(tostring(i)), 25)) end"""
COUNT_WRONG = """local wrong = 0
for i = 0, ARGV[1] - 1 do
    local v = redis.call('get', string.format('key:%012d', i))
    if v ~= string.rep(redis.sha1hex(tostring(i)), 25) and v ~= ARGV[2] then wrong = wrong + 1 end
end
return wrong"""


def figures(per_second, p50_us, p99_us, max_us):
    return {"ops": per_second, "p50": p50_us, "p99": p99_us, "max": max_us}


class RedisLoad(Redis):
    """`command`: what the load generator sends."""

    def __init__(self, context, directory):
        super().__init__(context, directory, 2)
        self.keys = 2 * context.items
        self.rate = None

    def load(self):
        for i in range(self.n):
            self.ask(i, "eval", LOAD, "0", str(self.keys))
            if self.ask(i, "dbsize") != str(self.keys):
                raise Failure("redis-server cannot be filled")

    def benchmark(self, requests):
        out = subprocess.run(["redis-benchmark", "-s", f"{self.directory}/redis-0", "-c", str(CONNECTIONS), "-n",
                              str(max(100, int(requests))), "-r", str(self.keys), "--csv", *self.command],
                             capture_output=True, text=True, check=True).stdout
        row = next(csv.DictReader(out.splitlines()))
        return figures(float(row["rps"]), *(1e3 * float(row[f"{k}_latency_ms"]) for k in ("p50", "p99", "max")))

    def measure(self, seconds):
        self.rate = self.rate or self.benchmark(5000)["ops"]
        return self.benchmark(self.rate * seconds)

    def check(self):
        for i in range(self.n):
            wrong = self.ask(i, "eval", COUNT_WRONG, "0", str(self.keys), self.command[-1])
            if wrong != "0":
                raise Failure(f"redis: {wrong} values are wrong")


class RedisGet(RedisLoad):
    command = ["get", "key:__rand_int__"]


class RedisSet(RedisLoad):
    command = ["set", "key:__rand_int__", "w" * 1000]


class Compiler:
    def __init__(self, context, directory):
        self.directory = directory
        self.company = Python(context, directory, 2)
        with open(f"{directory}/source.c", "w", encoding="ascii") as f:
            f.write("#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n")
            for i in range(40):
                f.write(f"int f{i}(const char *s, int n) {{ int a = {i}; for (int i = 0; i < n; i++) a = a * 31 + "
                        f"(s[i] ^ {i}) % 7; printf(\"%d %s\\n\", a, s); return a + (int)strlen(s); }}\n")
        self.compile = ["gcc", OPTIMISATION, "-c", f"{directory}/source.c", "-o"]
        subprocess.run([*self.compile, f"{directory}/expected.o"], check=True)

    def start(self, side):
        self.company.start(side)
        line = " ".join([*self.compile, f"{self.directory}/object.o"])
        self.shell = side.start(["sh", "-c", f"echo ready; while read -r _; do {line} && echo done; done"])
        expect(self.shell, "ready")
        self.running = [self.shell, *self.company.running]

    def measure(self, seconds):
        took, begin = [], time.monotonic()
        while time.monotonic() < begin + seconds:
            one = time.monotonic()
            say(self.shell, "compile")
            expect(self.shell, "done")
            took.append(1e6 * (time.monotonic() - one))
            self.compare()
        took.sort()
        return figures(1e6 / statistics.mean(took), statistics.median(took), took[len(took) * 99 // 100], took[-1])

    def compare(self):
        digests = []
        for name in ("object.o", "expected.o"):
            with open(f"{self.directory}/{name}", "rb") as f:
                digests.append(hashlib.sha256(f.read()).digest())
        if digests[0] != digests[1]:
            raise Failure("the compiler has made something else")

    def check(self):
        self.company.check()


class Writer:
    """`mode`: how bench/victim writes."""

    def __init__(self, context, directory):
        self.context = context

    def start(self, side):
        self.running = [side.start([self.context.tool("victim"), self.mode, str(self.context.mib), "1"])
                        for _ in range(2)]
        for p in self.running:
            expect(p, "ready")

    def measure(self, seconds):
        """Always a second."""
        say(self.running[0], "go")
        per_second, _, *ns = map(float, expect(self.running[0], "steps"))
        return figures(per_second, *(v / 1e3 for v in ns))

    def check(self):
        for p in self.running:
            say(p, "check")
        for p in self.running:
            expect(p, "ok")


class Sequential(Writer):
    mode = "sequential"


class Random(Writer):
    mode = "random"


# ---- a repetition -----------------------------------------------------------------------------------------------


def wait_settled(context, side):
    if side.name == "samepage":
        return settle(context, lambda: look(context, side)["saved_pages"], OUR_LOOK_SECONDS)
    if side.name != "nobody":
        return settle(context, ksm_saved_pages, OUR_LOOK_SECONDS, ksm_full_scans)
    return None


def settled_figures(context, victim):
    windows = [victim.measure(context.victim_seconds) for _ in range(context.victim_windows)]
    r = {f"settled_{k}": statistics.median(f[k] for f in windows) for k in ("ops", "p50", "p99")}
    return r | {"settled_max": max(f["max"] for f in windows)}


def one(context, w, name):
    with tempfile.TemporaryDirectory(prefix="sp-bench-") as directory, Programs() as programs:
        background = machine.background_cpus(context.background_seconds)
        side = sides.make(context, name, programs, directory, everything=True, hold=True)
        try:
            victim = w.program(context, directory)
            victim.start(side)
            victim.measure(min(SHARING_SECONDS, context.victim_seconds))  # warm
            side.switch_on()
            sharing = victim.measure(min(SHARING_SECONDS, context.victim_seconds))
            samples = wait_settled(context, side)
            r = settled_figures(context, victim)
            if samples:
                r["saved_pages"] = samples[-1][1]
            r |= {f"sharing_{k}": v for k, v in sharing.items()} | {"background_cpus": background}
            victim.check()
        finally:
            side.end()
    return r


def round_of(context, w, names, _number):
    return {name: one(context, w, name) for name in names}
