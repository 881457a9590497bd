# SPDX-License-Identifier: MIT
"""Looking at the machine: its CPU time, its memory, and what of both belongs to some processes. Changes nothing."""

import contextlib
import glob
import os
import platform
import re
import time

PAGE = 4096


class Failure(Exception):
    """A run that says nothing about speed: something did not work."""


def read(path):
    with open(path, encoding="utf-8", errors="replace") as f:
        return f.read()


def exact_account():
    """The scheduler's account of all tasks of the machine in nanoseconds, where the kernel has one: that of the root
    of the cgroups (v1, Documentation/admin-guide/cgroup-v1/cpuacct.rst). None: it has not, or only a part is seen."""
    for line in read("/proc/self/mountinfo").splitlines():
        words = line.split()
        if words[3] == "/" and words[words.index("-") + 1] == "cgroup" and "cpuacct" in words[-1].split(","):
            return f"{words[4]}/cpuacct.usage"
    return None


EXACT_ACCOUNT = exact_account()


def cpu_seconds():
    """CPU time of the whole machine since boot that was not idle (nor stolen by a hypervisor). /proc/stat, which is
    there in any case, samples it at each tick, and tells it in steps of 10 ms."""
    if EXACT_ACCOUNT:
        return int(read(EXACT_ACCOUNT)) / 1e9
    user, nice, system, _idle, _iowait, irq, softirq = map(int, read("/proc/stat").split("\n")[0].split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def process_cpu_seconds(pids):
    """Exact CPU time of all threads of the processes."""
    ns = 0
    for pid in pids:
        for path in glob.glob(f"/proc/{pid}/task/*/schedstat"):
            with contextlib.suppress(OSError):
                ns += int(read(path).split()[0])
    return ns / 1e9


def background_cpus(seconds=0.5):
    """CPUs' worth of work that others do while we do nothing."""
    before = cpu_seconds()
    time.sleep(seconds)
    return (cpu_seconds() - before) / seconds


def descendants(pids):
    """The processes and all below them."""
    parents = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        with contextlib.suppress(OSError):
            stat = read(path)
            parents[int(stat.split()[0])] = int(stat.rpartition(")")[2].split()[1])
    found = set(pids)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def memory_bytes():
    """What the machine uses: AnonPages + Shmem, and what it could still give."""
    with contextlib.suppress(OSError), open("/proc/sys/vm/stat_refresh", "w", encoding="ascii") as f:
        f.write("1\n")  # folds the per-CPU remainders into the totals
    kb = dict(re.findall(r"(\w+): +(\d+) kB", read("/proc/meminfo")))
    return {"used": (int(kb["AnonPages"]) + int(kb["Shmem"])) * 1024, "available": int(kb["MemAvailable"]) * 1024}


def charged_bytes(pids, daemon):
    """Memory of the processes together; a page that n of all processes map counts as 1/n in each. The store, which
    is in the daemon's memfds, counts as what it holds: clients need not have its pages in their page tables."""
    total = store_bytes(daemon) if daemon else 0
    for pid in pids:
        with contextlib.suppress(OSError, KeyError):  # kernel threads have none
            pss = dict(re.findall(r"^(Pss\w*): +(\d+) kB", read(f"/proc/{pid}/smaps_rollup"), re.M))
            total += (int(pss["Pss"]) - int(pss["Pss_Shmem"])) * 1024
    return total


def store_bytes(daemon):
    """Memory in the daemon's memfds, each counted once however many descriptors it has."""
    blocks = {}
    for path in glob.glob(f"/proc/{daemon}/fd/*"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if os.readlink(path).startswith("/memfd:"):
                info = os.stat(path)
                blocks[info.st_dev, info.st_ino] = info.st_blocks
    return sum(blocks.values()) * 512


def mappings(pids):
    """How many mappings the processes have together."""
    n = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            n += read(f"/proc/{pid}/maps").count("\n")
    return n


def shared_huge(pids):
    """(bytes, bytes of them by huge mappings) of what the processes map of the store and have not written since."""
    shared = huge = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for part in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", read(f"/proc/{pid}/smaps"), flags=re.M):
                if "memfd:samepage" in part.partition("\n")[0]:
                    kb = {k: int(v) for k, v in re.findall(r"^(\w+): +(\d+) kB", part, re.M)}
                    shared += (kb["Rss"] - kb["Anonymous"]) * 1024
                    huge += (kb.get("ShmemPmdMapped", 0) + kb.get("FilePmdMapped", 0)) * 1024
    return shared, huge


def anonymous_huge_bytes(pid):
    return int(re.search(r"^AnonHugePages: +(\d+) kB", read(f"/proc/{pid}/smaps_rollup"), re.M).group(1)) * 1024


def ksmd_pid():
    for path in glob.glob("/proc/[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if read(path) == "ksmd\n":
                return int(path.split("/")[2])
    raise Failure("this kernel has no ksmd: nothing to compare with")


def description():
    model = re.search(r"model name\s*: (.*)", read("/proc/cpuinfo"))
    total = re.search(r"MemTotal: +(\d+) kB", read("/proc/meminfo"))
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu": model.group(1) if model else "unknown",
        "cpus": os.cpu_count(),
        "memory_mib": int(total.group(1)) // 1024,
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def described(machine):
    return "{cpu}, {cpus} CPUs, {memory_mib} MiB, Linux {kernel} {machine}, {date}".format(**machine)
