# SPDX-License-Identifier: MIT
"""Runs a program without us and with us, and says what came of it."""

import os
import platform
import shutil
import glob
import subprocess
import time
import traceback

from box import TOP, Box, Failed, become_subreaper
from workloads import PROGRAMS

SAME, DIFFERENT, SKIPPED, BROKEN = "same", "DIFFERENT", "skipped", "not tested"


def is_there(need):
    return bool(glob.glob(need)) if need.startswith("/") else shutil.which(need) is not None


def lacking(program):
    return [n for n in program["needs"] if not is_there(n)]


class Outcome:
    """What is known about a program after it has run: `result` is one of the words above, `why` says more."""

    def __init__(self, program):
        self.program, self.result, self.why = program, SAME, ""
        self.alone = self.shared = None

    def slowdown(self):
        return self.shared.seconds / self.alone.seconds if self.alone and self.alone.seconds else 0


def run_in(build, shares, work, early=False):
    """One run; returns (box, result, what went wrong)."""
    box = Box(build, shares, early)
    try:
        return box, work(box), ""
    except Failed as failed:
        return box, None, str(failed)
    except (OSError, subprocess.SubprocessError, ValueError):
        return box, None, traceback.format_exc(limit=-1).strip().splitlines()[-1]
    finally:
        box.close()


def difference(a, b):
    text = f"{a!r:.10000}", f"{b!r:.10000}"
    at = next((i for i, (x, y) in enumerate(zip(*text)) if x != y), 0)
    return f"without: ...{text[0][max(0, at - 20):at + 60]}..., with: ...{text[1][max(0, at - 20):at + 60]}..."


def best(boxes):
    """The times of the fastest, the memory of the first."""
    first = boxes[0]
    first.seconds = min(b.seconds for b in boxes)
    first.saved_bytes = max(b.saved_bytes for b in boxes)
    return first


def compare(program, build, repeat=1):
    """Without and with in turns, so that a change of the machine's load meets both."""
    outcome = Outcome(program)
    if missing := lacking(program):
        outcome.result, outcome.why = SKIPPED, "not here: " + ", ".join(missing)
        return outcome
    alone, shared = [], []
    for _ in range(repeat):
        a, wanted, wrong = run_in(build, False, program["work"])
        if wrong:
            outcome.result, outcome.why = BROKEN, f"does not work without us either: {wrong}"
            return outcome
        b, got, wrong = run_in(build, True, program["work"])
        if not wrong and wanted == got:  # once more, and everything is merged as soon as it is there
            early, got, wrong = run_in(build, True, program["work"], early=True)
            b.saved_bytes = max(b.saved_bytes, early.saved_bytes)
            b.states |= early.states
        alone.append(a)
        shared.append(b)
        if wrong or wanted != got:
            outcome.result, outcome.why = DIFFERENT, wrong or difference(wanted, got)
            break
    outcome.alone, outcome.shared = best(alone), best(shared)
    return outcome


def prepare():
    become_subreaper()
    os.environ["PATH"] += ":/usr/sbin:/sbin"


# ---- what is said about it -------------------------------------------------------------------------------------


def mebibytes(n):
    return f"{n / (1 << 20):.0f}" if n >= 10 << 20 else f"{n / (1 << 20):.1f}"


def cells(o):
    memory = saved = slow = ""
    if o.shared and o.alone and o.result == SAME:
        if o.alone.memory_bytes and o.shared.memory_bytes:
            memory = f"{mebibytes(o.alone.memory_bytes)}, {mebibytes(o.shared.memory_bytes)}"
        saved = mebibytes(o.shared.saved_bytes)
        slow = f"{o.alone.seconds:.1f}, {o.shared.seconds:.1f} ({o.slowdown():.2f})" if o.alone.seconds else ""
    states = sorted(f"{n}: {s}" for n, s in o.shared.states.items()) if o.shared else []
    remark = "; ".join(filter(None, [o.program["remark"], o.why, ", ".join(states)]))
    return [o.program["name"], o.result, memory, saved, slow, remark.replace("|", "\\|").replace("\n", " ")]


HEAD = """# Real programs

Each program does its work without samepage and then under `samepage run --all`, several of it at once where that
makes sense, and must do the same: the same output, the same files, or what it checks by itself. This table is written
by `tools/programs --markdown FILE` (`make check-programs`) on this machine: {machine}.

"Memory" is the sum of the proportional set sizes (MiB) of all the program's processes without and with us, where there is a
moment at which it rests; "saved" is the most that samepaged said to be saved at any moment; "time" is that of the work in
seconds, without and with us, and the ratio (the fastest of at most {repeat} runs; of less than a second it says little). Short
programs end before anything is merged (worker_start_millisecs), and pay for starting: {start}. Each program
does its work once more, untimed, with worker_start_millisecs=0, so that it is merged from its beginning; that counts for "result" and "saved".

| program | result | memory | saved | time | remark |
| --- | --- | --- | --- | --- | --- |
"""


def machine():
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        cpu = next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), "")
    with open("/etc/os-release", encoding="utf-8") as f:
        system = next(line.split("=", 1)[1].strip().strip('"') for line in f if line.startswith("PRETTY_NAME"))
    return f"{system}, Linux {platform.release()}, {os.cpu_count()} processors ({cpu}), {memory:.0f} GiB"


def start_cost(build):
    """What `samepage run --all true` takes beyond `true`, with a daemon that is there."""
    def median(box):
        times = []
        for _ in range(21):
            begin = time.monotonic()
            box.run(["true"])
            times.append(time.monotonic() - begin)
        return sorted(times)[10]
    medians = []
    for shares in (False, True):
        box = Box(build, shares)
        medians.append(median(box))
        box.close()
    return f"`true` takes {medians[0] * 1000:.1f} ms without, {medians[1] * 1000:.1f} ms with us"


def markdown(rows, build, repeat):
    lines = ["| " + " | ".join(row) + " |\n" for row in rows]
    return HEAD.format(machine=machine(), repeat=repeat, start=start_cost(build)) + "".join(lines)


__all__ = ["BROKEN", "DIFFERENT", "PROGRAMS", "SAME", "SKIPPED", "TOP", "cells", "compare", "markdown", "prepare"]
