#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What stays saved under load: samepage beside KSM, for half an hour.

What was merged and then written is private again. KSM merges it anew when it has a twin; samepage does not, until the
memory is discarded or mapped anew (H13, docs/hazards.md). This shows what that comes to. Four of each program hold the
same data and get the same load: redis-servers whose values are overwritten at random (load.py says how), and QEMU
guests. Values are digits, as different as those of an application. KSM pauses for 1 s between its scans, samepage has
its defaults.

The sides run at the same time, unless --one-after-another: they take CPU time from each other then, so that this is no
benchmark of time, but nothing of each other's memory (lib/decay.py says how that is seen). What is read under load is
compared with what was written, and in the end all data of all sides. Settings of the kernel are put back.
"""

import argparse
import json
import os
import sys
import tempfile

sys.dont_write_bytecode = True

from lib import charts, settings  # noqa: E402
from lib.decay import sitting  # noqa: E402
from lib.load import PROGRAMS  # noqa: E402
from lib.machine import PAGE, Failure, described, description  # noqa: E402
from lib.report import DECAY, preset_words, write_section  # noqa: E402
from lib.sides import TITLES  # noqa: E402

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MIB = 1 << 20
SIDES = ("nobody", "ksm-delay", "samepage")
MARKS = (0, 1, 5, 10, 20, 30)
EVERY_SECONDS = 30
LEAST_SAMPLES = 4
WORDS = {
    "redis": "{instances} redis-servers with {values:,} values, {writes:g} of them overwritten and as many read in "
             "each second in each",
    "redis-hot": "the same, nine tenths of it among a tenth of the values",
    "guests": "{instances} QEMU guests of {guest_mib} MiB, each overwrites 1 MiB and reads all of its data once a minute",
}


class Context:
    def __init__(self, args):
        self.__dict__.update(vars(args))
        self.items = args.values // 2
        self.samepage, self.samepaged = f"{args.build}/samepage", f"{args.build}/samepaged"
        self.daemon_words = [word for s in args.set for word in ("--set", s)]
        self.every_seconds = min(EVERY_SECONDS, args.minutes * 60 / LEAST_SAMPLES)
        self.samples = max(1, round(args.minutes * 60 / self.every_seconds))
        self.no_ksm = None

    def tool(self, name):
        return f"{self.build}/bench/{name}"

    def say(self, line):
        print(line, flush=True)


# ---- figures ----------------------------------------------------------------------------------------------------


def marks(minutes):
    return [m for m in MARKS if m < minutes] + [minutes]


def nearest(samples, minutes):
    return min(samples, key=lambda s: abs(s[0] - minutes * 60))[1]


def saved(result, program, side):
    """[(seconds, bytes)]"""
    base = [s[f"{program}/nobody"]["charged_bytes"] for _, s in result["samples"]["nobody"]]
    return [(t, b - s[f"{program}/{side}"]["charged_bytes"]) for (t, s), b in zip(result["samples"][side], base)]


def saved_at(result, program, side, minutes):
    return nearest(saved(result, program, side), minutes)


def grown(result, side, key, program=None):
    """From the first sample to the last, by one program or all that are counted; None: nobody counts it."""
    first, last = (s[1] for s in (result["samples"][side][0], result["samples"][side][-1]))
    names = [n for n in last if key in last[n] and (n.endswith(f"/{side}") or n == side)
             and program in (None, n.partition("/")[0])]
    return sum(last[n][key] - first[n][key] for n in names) if names else None


def compared(result):
    return [s for s in SIDES if s in result["samples"] and s != "nobody"]


def tables(result):
    """(what stands above it, rows)"""
    minutes = marks(result["minutes"])
    head = ["saved, MiB, after so many minutes"] + [f"{m:g}" for m in minutes]
    rows = [head]
    for program in result["programs"]:
        rows.append([f"{program}: unmanaged it would be"] + [
            f"{nearest(result['samples']['nobody'], m)[f'{program}/nobody']['charged_bytes'] / MIB:.0f}" for m in minutes])
        for side in compared(result):
            rows.append([f"{program}: {TITLES[side]}"] + [
                f"{saved_at(result, program, side, m) / MIB:.0f}" for m in minutes])
    yield rows
    rows = [["in all that time", *(TITLES[s] for s in compared(result))]]
    for label, key, form in (("CPU of who merges, s", "cpu_seconds", "{:.1f}"), ("merged pages written", "broken_pages", "{:,}"),
                             ("pages left alone, mappings being spent", "pages_over_budget", "{:,}")):
        found = [grown(result, s, key) for s in compared(result)]
        rows.append([label, *("-" if v is None else form.format(v) for v in found)])
    for program in result["programs"]:
        found = [grown(result, s, "broken_pages", program) for s in compared(result)]
        rows.append([f"merged pages written in {program}", *("-" if v is None else f"{v:,}" for v in found)])
    yield rows


# ---- telling ----------------------------------------------------------------------------------------------------


def ran(result):
    how = "all sides at the same time on the same machine" if result["together"] else "one side after the other"
    yield f"{how}; who merges began {'when all was loaded' if result['hold'] else 'before anything was loaded'}"
    done = ", ".join(f"{p} {n:,} {'turns' if p == 'guests' else 'writes in each'}" for p, n in result["done"].items())
    yield f"done: {done}; every answer and, in the end, all data as they must be"
    if result["disturbed"]:
        yield f"somebody else switched KSM off, {result['disturbed']} times, and what it had merged was lost with it"


def markdown(result, pictures, remarks):
    yield f"{DECAY}\n\nWritten by `bench/decay.py --markdown`: what is measured stands at the top of that file.\n"
    yield f"{described(result['machine'])}.\n"
    yield f"- {TITLES['ksm-delay']}: {preset_words('ksm-delay')}"
    yield from (f"- {line}" for line in ran(result))
    yield from (f"- {p}: {words}" for p, words in result["what"].items())
    for rows in tables(result):
        yield "\n| " + " | ".join(rows[0]) + " |\n|" + " --- |" * len(rows[0])
        yield from ("| " + " | ".join(row) + " |" for row in rows[1:])
    yield from (f"\n![{p}]({path})" for p, path in pictures.items())
    yield "\n" + remarks if remarks else ""


def write_charts(directory, result):
    os.makedirs(f"{directory}/charts", exist_ok=True)
    pictures = {}
    for program, words in result["what"].items():
        curves = {side: [{"curve": [(t, b / PAGE) for t, b in saved(result, program, side)]}]
                  for side in compared(result)}
        if picture := charts.svg(f"{program}: what stays saved under load", curves):
            pictures[program] = f"charts/decay-{program}.svg"
            with open(f"{directory}/{pictures[program]}", "w", encoding="utf-8") as f:
                f.write(picture)
    return pictures


def tell(result):
    for rows in tables(result):
        print()
        for row in rows:
            print(f"{row[0]:45}" + "".join(f"{cell:>{max(10, 60 // len(row))}}" for cell in row[1:]))
    print()
    for line in ran(result):
        print(line)


# ---- running ----------------------------------------------------------------------------------------------------


def measure(context, names):
    """One sitting, or one for each side, put together by side."""
    sittings = [[n] for n in names] if context.one_after_another else [names]
    result = {"samples": {}, "done": {}, "disturbed": 0}
    for number, together in enumerate(sittings):
        with tempfile.TemporaryDirectory(prefix="sp-bench-") as directory:
            r = sitting(context, together, directory)
        for name in together:
            result["samples"][name] = [(t, {k: v for k, v in s.items() if k == name or k.endswith(f"/{name}")})
                                       for t, s in r["samples"]]
        result["done"], result["disturbed"] = r["done"], result["disturbed"] + r["disturbed"]
    return result


def arguments():
    p = argparse.ArgumentParser(description="what stays saved under load, beside KSM", allow_abbrev=False)
    p.add_argument("--build", default=f"{TOP}/build", help="build directory (%(default)s)")
    p.add_argument("--minutes", type=float, default=30, help="of load (%(default)s)")
    p.add_argument("--program", choices=list(PROGRAMS), action="append", help="these programs only")
    p.add_argument("--only", choices=[s for s in SIDES if s != "nobody"], help="this side only, beside nobody")
    p.add_argument("--values", type=int, default=240000, help="of each redis-server, 1,000 bytes each (%(default)s)")
    p.add_argument("--writes", type=float, default=100, help="a second in each redis-server (%(default)s)")
    p.add_argument("--instances", type=int, default=4, help="of each program under each side (%(default)s)")
    p.add_argument("--unmanaged", type=int, default=1, help="of each program under nobody, for reference (%(default)s)")
    p.add_argument("--guest-files", default=f"{TOP}/build/demo", help="of demo/prepare (%(default)s)")
    p.add_argument("--guest-mib", type=int, default=1024, help="memory of a guest (%(default)s)")
    p.add_argument("--settle-seconds", type=float, default=240, help="wait so long at most until all is merged (%(default)s)")
    p.add_argument("--hold", action="store_true", help="merge nothing before all programs have loaded their data")
    p.add_argument("--one-after-another", action="store_true", help="one side at a time, each for all the minutes")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of samepage's")
    p.add_argument("--json", metavar="FILE", help="write all figures into FILE")
    p.add_argument("--markdown", metavar="FILE", nargs="?", const=f"{TOP}/bench/RESULTS.md",
                   help="write the tables into FILE (bench/RESULTS.md), in the place of those that are there, and charts beside it")
    p.add_argument("--remarks", default="", metavar="TEXT", help="what to say below the tables in FILE")
    p.add_argument("--from", dest="given", metavar="FILE", help="measure nothing: the figures are in FILE, written by --json")
    args = p.parse_args()
    for name in ("minutes", "values", "writes", "instances", "unmanaged", "guest_mib"):
        if getattr(args, name) <= 0:
            p.error(f"--{name.replace('_', '-')}: more than 0 is needed")
    for name in ("json", "markdown"):
        if getattr(args, name) and not os.path.isdir(os.path.dirname(os.path.abspath(getattr(args, name)))):
            p.error(f"--{name}: there is no directory for {getattr(args, name)}")
    args.build, args.guest_files = os.path.abspath(args.build), os.path.abspath(args.guest_files)
    args.programs = args.program or list(PROGRAMS)
    if "guests" in args.programs and not args.given and not os.path.exists(f"{args.guest_files}/expected.json"):
        p.error(f"--guest-files: {args.guest_files} has none: run demo/prepare, or leave the guests out by --program")
    return args


def measured(args):
    context = Context(args)
    names = [s for s in SIDES if s in ("nobody", args.only or s)]
    context.no_ksm = settings.ksm_refusal() if any(s.startswith("ksm") for s in names) else "it is not asked for"
    if context.no_ksm:
        print(f"without KSM: {context.no_ksm}")
        names = [s for s in names if not s.startswith("ksm")]
    if names == ["nobody"]:
        raise Failure("no side is left that merges")
    start = description()
    with settings.kept():
        result = measure(context, names)
    return result | {"machine": start, "minutes": args.minutes, "together": not args.one_after_another,
                     "hold": args.hold,
                     "programs": args.programs, "what": {p: WORDS[p].format(**vars(args)) for p in args.programs}}


def main():
    args = arguments()
    try:
        if args.given:
            with open(args.given, encoding="utf-8") as f:
                result = json.load(f)
        else:
            result = measured(args)
    except (Failure, OSError) as e:
        print(f"decay: {e}", file=sys.stderr)
        return 1
    tell(result)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump(result, f)
    if args.markdown:
        pictures = write_charts(os.path.dirname(os.path.abspath(args.markdown)), result)
        write_section(args.markdown, "\n".join(markdown(result, pictures, args.remarks)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
