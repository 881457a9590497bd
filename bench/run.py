#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The benchmark: samepage beside the kernel's own KSM, on the same processes in the same run; `make bench`, or
`samepage bench`.

bench/lib/workloads.py is the table of workloads, and each kind is measured by a module beside it, at whose top stands
how. The sides take turns. KSM is flat out (100,000 pages, 0 ms), and on demand in other settings; samepage has its
defaults. Settings of the kernel that are changed are put back, whatever happens. Run it on a quiet machine, as root;
without the right to change KSM's settings samepage is measured alone.
"""

import argparse
import os
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
# Where results are kept that say nothing else: with the sources, or here and now.
KEPT = HERE if os.path.exists(f"{HERE}/meson.build") else "samepage-bench"

from lib import machine, report, settings, tables, targets  # noqa: E402
from lib.machine import Failure  # noqa: E402
from lib.sides import TITLES  # noqa: E402
from lib.workloads import TABLE  # noqa: E402

# What --quick and --tiny make of the sizes; --tiny is for the tests: it proves that everything works, and measures
# nothing.
FULL = {"mib": 256, "steady_mib": 1024, "steady_seconds": 60.0, "family_mib": 64, "items": 30000, "guests": 52,
        "guest_mib": 1024, "pause_seconds": 2.0, "background_seconds": 0.5, "victim_seconds": 1.0, "victim_windows": 5,
        "repetitions": 3, "quiet_seconds": 3.0, "few": False}
QUICK = {"mib": 64, "steady_mib": 128, "steady_seconds": 10.0, "family_mib": 8, "items": 5000, "guests": 4,
         "repetitions": 1, "victim_windows": 3}
TINY = QUICK | {"mib": 8, "steady_mib": 8, "steady_seconds": 0.5, "family_mib": 1, "items": 500, "guests": 2,
                "guest_mib": 256, "pause_seconds": 0.1, "background_seconds": 0.01, "victim_seconds": 0.2,
                "victim_windows": 1, "quiet_seconds": 0.2, "few": True}


class Context:
    """What a run was asked for: the sizes as attributes, and where the programs are."""

    def __init__(self, args, directory):
        self.__dict__.update(FULL | (TINY if args.tiny else QUICK if args.quick else {}))
        for size in ("mib", "repetitions", "guests", "steady_seconds"):
            if getattr(args, size) is not None:
                setattr(self, size, getattr(args, size))
        self.directory = directory
        self.timeout_seconds, self.limit_seconds = args.timeout, args.limit
        self.guest_files = args.guest_files
        self.probe = not args.no_probe
        self.tools, binaries = places(args.build, args.bin)
        self.samepage, self.samepaged = f"{binaries}/samepage", f"{binaries}/samepaged"
        self.daemon_words = [word for s in args.set for word in ("--set", s)]
        self.no_ksm = None  # why KSM cannot take part

    def tool(self, name):
        return os.path.join(self.tools, name)

    def small(self, n):
        """Instances of a program."""
        return 2 if self.few else n

    def require_programs(self):
        for path in (self.samepage, self.samepaged, self.tool("workload"), self.tool("poll"), self.tool("victim")):
            if not os.access(path, os.X_OK):
                raise Failure(f"{path} is missing: make build, or install samepage again")
        if subprocess.run([self.samepage, "doctor"], capture_output=True, check=False).returncode:
            raise Failure("nothing can be merged here, or not for this user: 'samepage doctor' says why")


def places(build, binaries):
    """Directories of the programs that are measured with, and of samepage itself: in a build tree, in the source tree,
    or installed."""
    if build:
        return f"{build}/bench", build
    tools = HERE if os.access(f"{HERE}/poll", os.X_OK) else f"{os.path.dirname(HERE)}/build/bench"
    for guess in (os.path.dirname(tools), f"{HERE}/../../../bin"):
        if not binaries and os.access(f"{guess}/samepage", os.X_OK):
            binaries = os.path.abspath(guess)
    return tools, binaries or os.path.dirname(tools)


# ---- what to run ----------------------------------------------------------------------------------------------------


def at_least_one(text):
    n = int(text)
    if n < 1:
        raise argparse.ArgumentTypeError("at least 1 is needed")
    return n


def arguments(words=None):
    p = argparse.ArgumentParser(prog=os.environ.get("SAMEPAGE_BENCH_NAME"), allow_abbrev=False,
                                description="Measures samepage beside the kernel's own KSM, on the same programs.",
                                epilog="Run it on a quiet machine, as root. Everything takes about an hour and a half; "
                                       "--quick some minutes. Settings of the kernel are put back when it ends.")
    p.add_argument("workload", nargs="*", metavar="WORKLOAD", help="see --list; default: all")
    p.add_argument("--list", action="store_true", help="tell the workloads, and what is missing for them")
    p.add_argument("--quick", action="store_true", help="small sizes, once: to see that it works and about how fast")
    p.add_argument("--tiny", action="store_true", help="sizes for tests: figures mean nothing, and no target is held")
    p.add_argument("--repetitions", type=at_least_one, metavar="N", help="of each side (3)")
    p.add_argument("--mib", type=at_least_one, metavar="N", help="memory of each process of most workloads (256)")
    p.add_argument("--guests", type=at_least_one, metavar="N", help="QEMU guests of 1 GB (52)")
    p.add_argument("--guest-files", metavar="DIR", help="their vmlinuz, initramfs and expected.json, from demo/prepare")
    p.add_argument("--steady-seconds", type=float, metavar="S", help="how long a steady state is looked at (60)")
    p.add_argument("--also", choices=("ksm-defaults", "ksm-advisor"), action="append", default=[],
                   help="KSM in other settings, for --limit seconds at most")
    p.add_argument("--only", choices=list(TITLES), action="append", help="these sides only")
    p.add_argument("--limit", type=float, default=60, metavar="S", help="see --also (%(default)s)")
    p.add_argument("--timeout", type=at_least_one, default=180, metavar="S", help="for 99 %% (%(default)s)")
    p.add_argument("--no-probe", action="store_true", help="without the repetitions that time a prober's reads, and freezes alone")
    p.add_argument("--no-gate", action="store_true", help="exit with 0 also when a target is missed")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                   help="a setting of samepage's (samepage help set)")
    p.add_argument("--json", metavar="FILE", help="write every figure of every repetition to FILE")
    p.add_argument("--save", metavar="DIR", nargs="?", const=KEPT,
                   help="keep results.json, RESULTS.md and charts in DIR (%(const)s); workloads that were not run "
                        "stay as they are there")
    p.add_argument("--build", metavar="DIR", help="build directory")
    p.add_argument("--bin", metavar="DIR", help="where samepage and samepaged are")
    args = p.parse_args(words)
    for name in args.workload:
        if name not in TABLE:
            p.error(f"unknown workload '{name}'; there are: {', '.join(TABLE)}")
    if args.json and not os.path.isdir(os.path.dirname(os.path.abspath(args.json))):
        p.error(f"--json: there is no directory for {args.json}")
    for name in ("build", "bin", "guest_files", "save"):
        if getattr(args, name):
            setattr(args, name, os.path.abspath(getattr(args, name)))
    return args


def print_list(context):
    for name, w in TABLE.items():
        missing = w.missing(context)
        print(f"{name:18} {w.what.format(**vars(context))}" + (f"\n{'':18} not here: {missing}" if missing else ""))


def sides_of(args, context, w):
    sides = [*w.sides, *(args.also if w.other_settings else [])]
    if args.only:
        sides = [s for s in sides if s in args.only]
    return [s for s in sides if not (context.no_ksm and s.startswith("ksm"))]


def obstacle(context, w):
    """Why a workload cannot be run here, or None."""
    need = w.memory_mib(context)
    if machine.memory_bytes()["available"] >> 20 < need:
        return f"{need} MiB of memory are needed"
    return w.missing(context)


# ---- running --------------------------------------------------------------------------------------------------------


def line_of(name, number, rounds, side, r):
    parts = [f"{name} {number + 1}/{rounds} {side:12}"]
    for key, form in (("seconds", "{:.3f} s"), ("reach_seconds", "{:.3f} s"), ("own_cpu_seconds", "{:.2f} CPU-s"),
                      ("idle_cpu_percent", "{:.3f} % of a CPU"), ("found_seconds", "new duplicate after {:.2f} s"),
                      ("shared_share", "{:.3f} shared"),
                      ("settled_ops", "{:.0f}/s"), ("settled_p99", "p99 {:.1f} us")):
        if r.get(key) is not None:
            parts.append(form.format(r[key]))
    for key, what in (("saved_bytes", "saved"), ("saved_mean_bytes", "saved in the mean")):
        if r.get(key) is not None:
            parts.append(f"{r[key] / (1 << 20):.0f} MiB {what}")
    if r.get("background_cpus", 0) >= 0.05:
        parts.append(f"(others kept {r['background_cpus']:.2f} CPUs busy just before)")
    return "  ".join(parts) + "  all data intact"


def run_workload(args, context, w):
    """All repetitions: what report.py keeps."""
    names = sides_of(args, context, w)
    rounds = min(context.repetitions, w.longest_rounds)
    results = {name: [] for name in names}
    if w.huge:
        settings.huge_pages_for_who_asks()
    with settings.mapping_limit(w.pages_per_process(context), w.mappings_per_page) as raised:
        if raised:
            print(f"{w.name}: vm.max_map_count raised to {raised} for it")
        for number in range(rounds):
            for name, r in w.round(context, w, names, number).items():
                results[name].append(r)
                print(line_of(w.name, number, rounds, name, r), flush=True)
    return {"what": w.what.format(**vars(context)), "machine": machine.description(), "max_map_count": raised,
            "ksm": settings.ksm_as_found() if not context.no_ksm else {}, "set": " ".join(args.set),
            "sides": results}


def run_all(args, context):
    """(entries of what was run, whether everything that was asked for by name could be)."""
    entries, complete = {}, True
    for name in args.workload or TABLE:
        w = TABLE[name]
        why = obstacle(context, w) or (None if sides_of(args, context, w) else "none of its sides can be measured")
        if not why:
            try:
                entries[name] = run_workload(args, context, w)
                continue
            except (Failure, OSError, subprocess.SubprocessError) as e:
                print(f"bench: {name}: {e}", file=sys.stderr, flush=True)
                complete = False
                continue
        print(f"{name}: left out: {why}", flush=True)
        complete = complete and not args.workload
    return entries, complete


def tell(entries):
    for name, entry in entries.items():
        print("\n".join(tables.text(report.heading(name, entry), entry["sides"])))
    print()
    missed = 0
    for _, text, met in targets.verdicts(report.results_of(entries)):
        print(text)
        missed += not met
    return missed


def keep(args, entries):
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            report.write_json(entries, f)
    if args.save:
        os.makedirs(args.save, exist_ok=True)
        report.save(args.save, entries)


def bench(args, context):
    if args.list:
        print_list(context)
        return 0
    context.require_programs()
    asked = not args.only or any(s.startswith("ksm") for s in args.only)
    context.no_ksm = settings.ksm_refusal() if asked else "it is not asked for"
    print(machine.described(machine.description()))
    if context.no_ksm:
        print(f"without KSM: {context.no_ksm}")
    with settings.kept():
        entries, complete = run_all(args, context)
    missed = tell(entries) if entries else 0
    keep(args, entries)
    return 0 if complete and (args.no_gate or args.tiny or not missed) else 1


def main():
    args = arguments()
    try:
        with tempfile.TemporaryDirectory(prefix="sp-bench-") as directory:
            return bench(args, Context(args, directory))
    except Failure as e:
        print(f"bench: {e}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
