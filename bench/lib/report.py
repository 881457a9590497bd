# SPDX-License-Identifier: MIT
"""What is kept of a run: results.json with every figure of every repetition, a chart for each workload, RESULTS.md.

Workloads may be run in several sittings: a run replaces its own ones in results.json and leaves the others, each with
the machine, the settings and the time of its run; the tables, charts and verdicts are made from all of them."""

import contextlib
import json
import os
import re

from . import charts, tables
from .machine import described, read
from .settings import KSM_PRESETS
from .sides import TITLES
from .targets import verdicts
from .workloads import TABLE

# What others write at the end of the file stays there: bench/indexes.py and bench/decay.py.
INDEX = "# The index: fingerprints beside two trees"
DECAY = "# Under load: what stays saved"
OTHERS = (INDEX, DECAY)


def sections(path):
    """The file in pieces, one for each heading of the first order, in their order: {heading: text}."""
    with contextlib.suppress(FileNotFoundError):
        return {part.partition("\n")[0]: part.strip("\n") for part in re.split(r"^(?=# )", read(path), flags=re.M)
                if part.strip()}
    return {}


def kept_sections(path):
    return [text for heading, text in sections(path).items() if heading in OTHERS]


def write_section(path, text):
    """In the place of the section with this heading, or at the end."""
    parts = sections(path) | {text.partition("\n")[0]: text.strip("\n")}
    with open(path, "w", encoding="utf-8") as f:
        f.write("\n\n".join(parts.values()) + "\n")


def merged(path, new):
    """The workloads in the file, those of this run in the place of theirs, in the order of the table."""
    old = {}
    with contextlib.suppress(FileNotFoundError):
        old = json.loads(read(path))["workloads"]
    both = old | new
    return {name: both[name] for name in TABLE if name in both}


def results_of(entries):
    return {name: e["sides"] for name, e in entries.items()}


def heading(name, entry):
    return f"{name}: {entry['what']}"


def preset_words(name):
    return ", ".join(f"{k} {v}" for k, v in KSM_PRESETS[name].items())


def machines(entries):
    """Each machine once, with the times of its runs left out."""
    return sorted({described(e["machine"] | {"date": ""}).rstrip(", ") for e in entries.values()})


def head(entries):
    yield "# Benchmark: samepage beside KSM\n"
    yield ("Written by `make bench ARGS=--save`; how each kind of workload is measured stands at the top of its module "
           "in bench/lib/. Every figure of every repetition is in [results.json](results.json); where the time goes, and what "
           "the floor is, in PROFILES.md of the source tree.\n")
    yield "\n".join(machines(entries)) + ". Median (lowest-highest).\n"
    used = [s for s in KSM_PRESETS if any(s in e["sides"] for e in entries.values())]
    for s in used:
        yield f"- {TITLES[s]}: {preset_words(s)}"
    found = next(iter(entries.values()))["ksm"]
    if found:
        yield "- KSM otherwise as found: " + ", ".join(f"{k} {v}" for k, v in found.items())
    yield "- samepage: its defaults" + next((f" and {w}" for e in entries.values() if (w := e["set"])), "")


def section(name, entry, chart):
    yield f"\n## {heading(name, entry)}\n"
    raised = entry["max_map_count"]
    rounds = max(len(runs) for runs in entry["sides"].values())
    yield (f"{rounds} repetition{'s' * (rounds != 1)}, {entry['machine']['date']}; vm.max_map_count "
           + (f"raised to {raised} for it, and put back.\n" if raised else "not changed.\n"))
    yield from tables.markdown(entry["sides"])
    if chart:
        yield f"\n![saving over time]({chart})"


def markdown(entries, pictures):
    yield from head(entries)
    for name, entry in entries.items():
        yield from section(name, entry, pictures.get(name))
    yield "\n## Targets\n"
    for _, text, _ in verdicts(results_of(entries)):
        yield f"- {text}"


def write_charts(directory, entries):
    """Paths of those that there are, relative to the directory."""
    os.makedirs(f"{directory}/charts", exist_ok=True)
    pictures = {}
    for name, entry in entries.items():
        if picture := charts.svg(heading(name, entry), entry["sides"]):
            pictures[name] = f"charts/{name}.svg"
            with open(f"{directory}/charts/{name}.svg", "w", encoding="utf-8") as f:
                f.write(picture)
    return pictures


def save(directory, new):
    entries = merged(f"{directory}/results.json", new)
    pictures = write_charts(directory, entries)
    with open(f"{directory}/results.json", "w", encoding="utf-8") as f:
        write_json(entries, f)
    parts = ["\n".join(markdown(entries, pictures)), *kept_sections(f"{directory}/RESULTS.md")]
    with open(f"{directory}/RESULTS.md", "w", encoding="utf-8") as f:
        f.write("\n\n".join(parts) + "\n")


def write_json(entries, f):
    """A line for each workload."""
    f.write('{"workloads": {\n')
    f.write(",\n".join(f"{json.dumps(name)}: {json.dumps(e)}" for name, e in entries.items()))
    met = [{"workload": w, "text": text, "met": met} for w, text, met in verdicts(results_of(entries))]
    f.write(f'\n}},\n"targets": {json.dumps(met)}}}\n')
