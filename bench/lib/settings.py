# SPDX-License-Identifier: MIT
"""Settings of the kernel that are changed for a run: KSM's, vm.max_map_count, huge pages.

Each is remembered before it is changed for the first time, and all are put back when the run ends: by itself, by an
error, or by SIGINT, SIGTERM or SIGHUP (only SIGKILL leaves them). `kept` does it; should a signal come just
while it does, what is missing is put back at exit. Nothing else here may write to /proc/sys or /sys.
"""

import atexit
import contextlib
import os
import re
import signal
import sys

from .machine import PAGE, Failure, read

KSM = "/sys/kernel/mm/ksm/"
MAX_MAP_COUNT = "/proc/sys/vm/max_map_count"
HUGE_PAGES = "/sys/kernel/mm/transparent_hugepage/enabled"
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
# While the advisor is on, the kernel takes no value for this one.
ADVISED = KSM + "pages_to_scan"
# What KSM is set to: flat out; its defaults; its scan-time advisor; and a pause as long as our longest one, in
# which all that is managed is scanned once.
KSM_PRESETS = {
    "ksm": {"pages_to_scan": 100000, "sleep_millisecs": 0},
    "ksm-defaults": {"pages_to_scan": 100, "sleep_millisecs": 20},
    "ksm-advisor": {"sleep_millisecs": 20, "advisor_mode": "scan-time"},
    "ksm-delay": {"pages_to_scan": 100000000, "sleep_millisecs": 1000},
}

before = {}


def value(path):
    """Of "always [madvise] never" the chosen one."""
    text = read(path).strip()
    chosen = re.search(r"\[(.*)\]", text)
    return chosen.group(1) if chosen else text


def write(path, text):
    with open(path, "w", encoding="ascii") as f:
        f.write(f"{text}\n")


def change(path, text):
    before.setdefault(path, value(path))
    write(path, text)


def put_back():
    """Every page that KSM had merged is private again after this."""
    if KSM + "run" in before:
        write(KSM + "run", 2)
    if KSM + "advisor_mode" in before:
        write(KSM + "advisor_mode", "none")
    for path in sorted(before, key=lambda p: p != ADVISED):
        write(path, before[path])
        del before[path]


def end_by_signal(number, _frame):
    for s in SIGNALS:
        signal.signal(s, signal.SIG_IGN)  # one is enough: what it starts must not be interrupted
    sys.exit(128 + number)


@contextlib.contextmanager
def kept():
    for s in SIGNALS:
        signal.signal(s, end_by_signal)
    atexit.register(put_back)
    try:
        yield
    finally:
        put_back()


# ---- KSM --------------------------------------------------------------------------------------------------------


def ksm_refusal():
    """Why KSM cannot stand beside us here, or None."""
    if not os.path.exists(KSM + "run"):
        return "this kernel has no KSM"
    if os.geteuid() != 0 or not os.access(KSM + "run", os.W_OK):
        return "KSM's settings can only be changed by root"
    try:
        write(KSM + "run", value(KSM + "run"))
    except OSError as e:
        return f"KSM's settings cannot be changed: {e.strerror}"
    if value(KSM + "run") == "1":
        return "ksmd is running (/sys/kernel/mm/ksm/run is 1) and would take part: stop it first"
    return None


def ksm_empty():
    """Nothing merged, and nothing merging."""
    change(KSM + "run", 2)


def ksm_run(preset):
    wanted = KSM_PRESETS[preset]
    if os.path.exists(KSM + "advisor_mode"):
        change(KSM + "advisor_mode", "none")
    elif "advisor_mode" in wanted:
        raise Failure("this kernel's KSM has no advisor (Linux 6.8 has)")
    change(ADVISED, wanted.get("pages_to_scan", value(ADVISED)))
    for name in ("sleep_millisecs", "advisor_mode"):
        if name in wanted:
            change(KSM + name, wanted[name])
    change(KSM + "run", 1)


def ksm_saved_pages():
    """Pages saved, zeros included; kernels before 6.6 count none."""
    zeros = int(read(KSM + "ksm_zero_pages")) if os.path.exists(KSM + "ksm_zero_pages") else 0
    return int(read(KSM + "pages_sharing")) + zeros


def ksm_kernel_bytes():
    """What KSM remembers of each page that it scanned (rmap items; ksm.rst, general_profit). Kernels before 6.3 do not
    tell: 0."""
    if not os.path.exists(KSM + "general_profit"):
        return 0
    return ksm_saved_pages() * PAGE - int(read(KSM + "general_profit"))


def ksm_full_scans():
    return int(read(KSM + "full_scans"))


def ksm_as_found():
    """All that is neither a counter nor changed, for the record."""
    names = ("use_zero_pages", "smart_scan", "max_page_sharing", "merge_across_nodes", "advisor_target_scan_time",
             "advisor_max_cpu")
    return {n: value(KSM + n) for n in names if os.path.exists(KSM + n)}


# ---- the rest ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def mapping_limit(pages_per_process, mappings_per_page):
    """samepage spends 60 % of the limit at most. Raised only where that would not be enough, so that the figures
    hold for the kernel's default where they can. What it was raised to, or None."""
    found = int(value(MAX_MAP_COUNT))
    needed = int(pages_per_process * mappings_per_page) + 10000
    if found >= needed:
        yield None
        return
    if not os.access(MAX_MAP_COUNT, os.W_OK):
        raise Failure(f"vm.max_map_count is {found}, which is too low: as root, sysctl vm.max_map_count={needed}")
    change(MAX_MAP_COUNT, needed)
    try:
        yield needed
    finally:
        write(MAX_MAP_COUNT, found)


def huge_pages_for_who_asks():
    if not os.path.exists(HUGE_PAGES):
        raise Failure("this kernel has no transparent huge pages")
    if value(HUGE_PAGES) == "never":
        if not os.access(HUGE_PAGES, os.W_OK):
            raise Failure(f"there are no huge pages: as root, echo madvise > {HUGE_PAGES}")
        change(HUGE_PAGES, "madvise")
