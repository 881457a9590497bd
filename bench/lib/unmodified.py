# SPDX-License-Identifier: MIT
"""Unmodified programs that advise nothing: `samepage run` beside the kernel's KSM with merge-any, flat out.

    python   8 python3 processes that load the same data: 30,000 dictionaries with strings and byte strings
    node     8 node processes that load the same data: 30,000 objects with strings and buffers
    redis    4 redis-servers with the same 60,000 values of 1,000 bytes: DEBUG POPULATE, which is zeros but for a number
    redis-text   the same with values of hexadecimal digits, as different as those of an application
    redis-large  as redis-text with 240,000 values: about as much memory as the processes of `same` have
    guests   52 QEMU guests of 1 GB each (guests.py)

The programs load, KSM being told of them by prctl(PR_SET_MEMORY_MERGE) in each, and are idle from then on. When the
last of them is ready the clock starts and merging is switched on: ksmd by its `run`, samepage by letting its daemon,
which was stopped, go on. (Left to themselves both would begin while the programs load.) pages_sharing and
ksm_zero_pages are looked at, the kernel's every 5 ms, the daemon's every 5 ms until it has saved the wanted share of
what KSM saved; it ends when nothing has grown by a hundredth for three seconds (and KSM has gone through everything
three times). `saved` is what the kernel charges to these processes, the daemon and its store, against the same programs
with nobody merging. In the end the programs are asked about their data: all must tell the same.
"""

import concurrent.futures
import subprocess
import tempfile
import time

from . import machine, settings, sides
from .machine import Failure
from .merging import MAPPING_BYTES, curve_of, look, poll_answer, poll_command, time_to
from .programs import Programs, expect, say

LONGEST_SECONDS = 180
KSM_LOOK_SECONDS, OUR_LOOK_SECONDS = 0.005, 0.2

PYTHON_PROGRAM = """
import hashlib, random, sys
r = random.Random(1)
data = []
for i in range(int(sys.argv[1])):
    data.append({"name": f"item {i}", "tags": [f"tag {r.randrange(500)}" for _ in range(5)],
                 "size": r.randrange(1 << 40), "body": r.randbytes(r.randrange(20, 4000))})
print("ready", flush=True)
sys.stdin.readline()
h = hashlib.sha256()
for d in data:
    h.update(d["body"])
    h.update(repr((d["name"], d["tags"], d["size"])).encode())
print("sum", h.hexdigest(), flush=True)
sys.stdin.read()
"""
NODE_PROGRAM = """
const crypto = require("crypto");
const data = [];
for (let i = 0; i < Number(process.argv[1]); i++) {
    const body = crypto.createHash("sha512").update(String(i)).digest("hex").repeat(8);
    data.push({name: `item ${i}`, tags: [i % 7, i % 11, i % 13], body, raw: Buffer.from(body, "hex")});
}
console.log("ready");
process.stdin.once("data", () => {
    const h = crypto.createHash("sha256");
    for (const d of data) { h.update(d.name); h.update(d.body); h.update(d.raw); h.update(d.tags.join()); }
    console.log("sum " + h.digest("hex"));
});
process.stdin.on("end", () => process.exit(0));
"""


class Told:
    """Processes of a program that says "ready", and for a line "sum" and what its data sum up to."""

    def __init__(self, context, directory, n):
        self.context, self.n, self.running = context, n, []

    def start(self, side):
        self.running = [side.start(self.words) for _ in range(self.n)]
        for p in self.running:
            expect(p, "ready")

    def check(self):
        for p in self.running:
            say(p, "sum")
        told = {tuple(expect(p, "sum")) for p in self.running}
        if len(told) != 1:
            raise Failure(f"the processes differ: {told}")
        for p in self.running:
            p.stdin.close()
            if p.wait(60):
                raise Failure(f"a process ended with status {p.returncode}")


class Python(Told):
    @property
    def words(self):
        return ["/usr/bin/python3", "-c", PYTHON_PROGRAM, str(self.context.items)]


class Node(Told):
    @property
    def words(self):
        return ["node", "-e", NODE_PROGRAM, str(self.context.items)]


class Redis:
    values_per_item = 2

    def __init__(self, context, directory, n):
        self.context, self.directory, self.n, self.running = context, directory, n, []

    def ask(self, i, *words):
        p = subprocess.run(["redis-cli", "-s", f"{self.directory}/redis-{i}", *words], capture_output=True, text=True,
                           check=False)
        return p.stdout.strip()

    def start(self, side):
        for i in range(self.n):
            self.running.append(side.start(
                ["redis-server", "--port", "0", "--unixsocket", f"{self.directory}/redis-{i}", "--dir", self.directory,
                 "--save", "", "--enable-debug-command", "yes", "--loglevel", "warning"], stdin=subprocess.DEVNULL))
        for i, p in enumerate(self.running):
            while self.ask(i, "ping") != "PONG":
                if p.poll() is not None:
                    raise Failure("redis-server does not start")
                time.sleep(0.02)
        self.load()

    def load(self):
        for i in range(self.n):
            if self.ask(i, "debug", "populate", str(self.values_per_item * self.context.items), "key", "1000") != "OK":
                raise Failure("redis-server cannot be filled: is DEBUG allowed?")

    def digests(self):
        """Of all data in each server."""
        return {self.ask(i, "debug", "digest") for i in range(self.n)}

    def check(self):
        digests = self.digests()
        if len(digests) != 1 or len(digests.pop()) != 40:
            raise Failure("the data sets differ")


class RedisText(Redis):
    FILL = """for i = 1, tonumber(ARGV[1]) do
        local parts = {}
        for k = 1, 25 do parts[k] = redis.sha1hex(i .. ':' .. k) end
        redis.call('set', 'key:' .. i, table.concat(parts))
    end"""

    def load(self):
        values = str(self.values_per_item * self.context.items)
        with concurrent.futures.ThreadPoolExecutor(self.n) as pool:
            told = list(pool.map(lambda i: self.ask(i, "eval", self.FILL, "0", values), range(self.n)))
        if any(told):
            raise Failure("redis-server cannot be filled")


class RedisLarge(RedisText):
    values_per_item = 8


# ---- the clock --------------------------------------------------------------------------------------------------


def settle(context, pages, pause, full_scans=None, longest=LONGEST_SECONDS):
    """Waits until nothing grows any more. [(seconds, pages)] from now on."""
    samples, t0, grown, most = [], time.monotonic(), 0.0, 0
    until = full_scans() + 3 if full_scans else 0
    while True:
        now, n = time.monotonic() - t0, pages()
        if not samples or n != samples[-1][1]:
            samples.append((now, n))
        if n > most * 1.01:
            most, grown = n, now
        scanned = not full_scans or full_scans() >= until
        if now - grown > context.quiet_seconds and scanned or now > longest:
            return samples
        time.sleep(pause)


def ksm_way(context, w, side):
    side.switch_on()
    return settle(context, settings.ksm_saved_pages, KSM_LOOK_SECONDS, settings.ksm_full_scans,
                  w.longest_seconds)


def our_way(context, w, side, programs, wanted):
    """The way to the wanted pages, seconds to there or None, and what there is in the end."""
    poll = programs.start(poll_command(context, side, max(1, wanted), w.longest_seconds))
    t0 = time.monotonic()
    side.switch_on()
    told = poll_answer(poll)
    curve = curve_of(told, t0)
    offset = time.monotonic() - t0
    curve += [(t + offset, n) for t, n in settle(context, lambda: look(context, side)["saved_pages"], OUR_LOOK_SECONDS)]
    return curve, told["at_ns"] / 1e9 - t0 if told["reached"] else None


def way(context, w, side, programs, wanted):
    if side.name == "nobody":
        return {}
    before = machine.process_cpu_seconds(side.pids)
    if side.name == "samepage":
        curve, seconds = our_way(context, w, side, programs, wanted)
    else:
        curve = ksm_way(context, w, side)
        seconds = time_to(curve, 0.99 * curve[-1][1])
    return {"curve": thinned(curve), "saved_pages": curve[-1][1], "reach_seconds": seconds,
            "side_cpu_seconds": machine.process_cpu_seconds(side.pids) - before}


def thinned(curve):
    """A point for each hundredth of the height."""
    kept, step = [], max((p for _, p in curve), default=0) / 100
    for t, p in curve:
        if not kept or abs(p - kept[-1][1]) >= step or (t, p) == curve[-1]:
            kept.append((round(t, 4), p))
    return kept


def one(context, w, name, n, wanted):
    with tempfile.TemporaryDirectory(prefix="sp-bench-") as directory, Programs() as programs:
        background = machine.background_cpus(context.background_seconds)
        side = sides.make(context, name, programs, directory, everything=True, hold=True)
        try:
            running = w.program(context, directory, n)
            begin = time.monotonic()
            running.start(side)
            r = {"ready_seconds": time.monotonic() - begin, "background_cpus": background, "instances": n}
            before = cpu_of(side, running)
            r |= way(context, w, side, programs, wanted)
            r["own_cpu_seconds"] = cpu_of(side, running) - before
            pids = pids_of(side, running)
            r["charged_bytes"] = machine.charged_bytes(pids, side.daemon)
            r["kernel_bytes"] = settings.ksm_kernel_bytes() if name.startswith("ksm") else 0
            r["mappings"] = machine.mappings(pids)
            if name == "samepage":
                figures_of_ours(context, side, r)
            running.check()
        finally:
            side.end()
    return r


def pids_of(side, running):
    """The programs, and what works for the side: the daemon's index is paid for like KSM's rmap items."""
    return machine.descendants(list(side.pids) + [p.pid for p in running.running])


def cpu_of(side, running):
    return machine.process_cpu_seconds(pids_of(side, running))


def figures_of_ours(context, side, r):
    status = look(context, side)
    c = status["counters"]
    r["freeze_us"] = [status[k] / 1e3 for k in ("freeze_p50_ns", "freeze_p99_ns", "freeze_max_ns")]
    r["mappings_per_gib"] = c["mappings"] / max(1e-9, (c["pages_sharing"] + c["pages_shared"]) / (1 << 18))


def round_of(context, w, names, _number):
    """Nobody first, then KSM, then samepage, which is measured by its way to what KSM has reached."""
    n = w.instances(context)
    results, wanted = {}, 0
    for name in names:
        results[name] = r = one(context, w, name, min(n, w.unmanaged or n) if name == "nobody" else n, wanted)
        if name == "ksm":
            wanted = int(w.wanted_share * r["saved_pages"])
    base = results.get("nobody")
    if base and "samepage" in results:
        ours = results["samepage"]
        added = ours["mappings"] - base["mappings"] * ours["instances"] // base["instances"]
        ours["kernel_bytes"] = max(0, added) * MAPPING_BYTES
    for r in results.values():
        r["all_each_bytes"] = (r["charged_bytes"] + r["kernel_bytes"]) / r["instances"]
        r["charged_each_bytes"] = r["charged_bytes"] / r["instances"]
        if base and r is not base:
            r["saved_bytes"] = (base["charged_bytes"] / base["instances"] - r["charged_each_bytes"]) * n
    return results
