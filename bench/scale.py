#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What a daemon costs by the number of its clients, and how long it lets them wait.

For each number of clients a daemon of its own is started, with the files of KSM, and bench/clients makes the crowd
(its head says what the phases are). While the crowd is connected, `samepage status`, `samepage status --json` and each
of the files are timed from outside, the start of the program included. --users gives the clients as many users, in
turn. --markdown FILE writes the tables of docs/scaling.md. Run it on a quiet machine, as root.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TIMES = 300
LOOKS = ("status", "status --json", "get run")
BUSY = ", while clients ask"


def milliseconds(act):
    """The median, the 99th percentile and the longest of some repetitions."""
    took = []
    for _ in range(TIMES):
        start = time.perf_counter()
        act()
        took.append((time.perf_counter() - start) * 1e3)
    return spread(took)


def spread(took):
    return statistics.median(took), sorted(took)[len(took) * 99 // 100], max(took)


def run_quietly(words):
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        pid = os.posix_spawn(words[0], words, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, null, 1)])
    finally:
        os.close(null)
    if os.waitpid(pid, 0)[1]:
        sys.exit(f"scale: {' '.join(words)} failed")


def read_all(directory):
    """Each file; the longest of one round is what counts."""
    longest = 0
    for name in sorted(os.listdir(directory)):
        start = time.perf_counter()
        with open(os.path.join(directory, name)) as f:
            f.read()
        longest = max(longest, time.perf_counter() - start)
    return longest


@contextlib.contextmanager
def daemon(build, directory):
    socket, files = f"{directory}/socket", f"{directory}/ksm"
    os.mkdir(files)
    os.chmod(directory, 0o755)
    ready, ready_write = os.pipe()
    process = subprocess.Popen([f"{build}/samepaged", "--socket", socket, "--ksm-files", files, "--ready-fd",
                                str(ready_write)], pass_fds=[ready_write], stderr=subprocess.DEVNULL)
    os.close(ready_write)
    if os.read(ready, 1) != b"\0":
        sys.exit("scale: the daemon did not start")
    os.close(ready)
    try:
        yield socket, files
    finally:
        process.terminate()
        process.wait()


def look(build, socket, files, how, outside):
    """Times everything by which one can look at the daemon."""
    for words in LOOKS:
        command, *more = words.split()
        asked = [f"{build}/samepage", command, "-S", socket, *more]
        outside[words + how] = milliseconds(lambda a=asked: run_quietly(a))
    outside["a KSM file" + how] = spread([read_all(files) * 1e3 for _ in range(TIMES)])


def measure(build, clients, seconds, users):
    """The phases by name, and what was timed from outside."""
    phases, outside = {}, {}
    with tempfile.TemporaryDirectory(prefix="samepage-scale-") as directory, daemon(build, directory) as (socket, files):
        words = [f"{build}/bench/clients", socket, str(clients), str(seconds), str(users)]
        crowd = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for line in crowd.stdout:
            phase = json.loads(line)
            phases[phase["phase"]] = phase
            if phase["phase"] == "ready":
                look(build, socket, files, "", outside)
                crowd.stdin.write("busy\n")
                crowd.stdin.flush()
                look(build, socket, files, BUSY, outside)
                crowd.stdin.close()
        if crowd.wait():
            sys.exit("scale: bench/clients failed")
    return phases, outside


def rows(results):
    """(what, a value for each number of clients)"""
    def each(name, of, form):
        found = [form(of(r)) if name in r[0] or name in r[1] else "-" for r in results]
        return found

    def phase(name, key, form="{:.1f}"):
        return each(name, lambda r: r[0][name][key], form.format)

    def waiting(name):
        return each(name, lambda r: "{p50_us:.0f} / {p99_us:.0f} / {max_us:.0f}".format(**r[0][name]), str)

    def outside(name):
        return each(name, lambda r: "{:.2f} / {:.2f} / {:.2f}".format(*r[1][name]), str)

    yield "all join, ms", each("join", lambda r: r[0]["join"]["seconds"] * 1e3, "{:.1f}".format)
    yield "memory of the kernel for each, KiB", phase("kernel", "slab_kib_per_client")
    yield "CPU for a page published, its questions included, us", phase("publish", "cpu_us_per_page", "{:.2f}")
    yield "CPU for a page asked about and shared, us", phase("share", "cpu_us_per_page", "{:.3f}")
    yield "CPU for a question about 64 pages, all clients asking all the time, us", phase("saturated", "cpu_us_per_answer")
    yield "CPU for such a question, 2,000 in a second, us", phase("rate", "cpu_us_per_answer")
    yield "its answer comes after, p50 / p99 / max us", waiting("rate")
    yield "the same while one client floods", waiting("flood by one")
    yield "the same while a tenth of the clients does", waiting("flood by a tenth")
    yield "CPU for a report, us", phase("reports", "cpu_us_per_answer")
    yield "CPU for giving one page back, us", phase("releases", "cpu_us_per_answer")
    for name, what in (("idle", "nobody does anything"), ("held", "each has a child that lives on")):
        yield f"CPU for a minute in which {what}, ms", each(
            name, lambda r, n=name: r[0][n]["daemon_cpu_seconds"] / r[0][n]["seconds"] * 60e3, "{:.1f}".format)
    yield "memory of the daemon, MiB", each(
        "idle", lambda r: r[0]["idle"]["daemon_rss_mib"], "{:.1f}".format)
    for how in ("", BUSY):
        for name in (*LOOKS, "a KSM file"):
            yield f"{name}{how}, p50 / p99 / max ms", outside(name + how)
    yield "all leave, ms", each("leave", lambda r: r[0]["leave"]["seconds"] * 1e3, "{:.1f}".format)


def table(numbers, results):
    yield "| clients | " + " | ".join(f"{n:,}" for n in numbers) + " |"
    yield "| --- |" + " --- |" * len(numbers)
    for what, values in rows(results):
        yield f"| {what} | " + " | ".join(values) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=f"{TOP}/build")
    parser.add_argument("--clients", default="10,1000", help="numbers of clients (10,1000)")
    parser.add_argument("--users", type=int, default=1, help="that they belong to (1)")
    parser.add_argument("--seconds", type=int, default=2, help="of each phase that lasts (2)")
    parser.add_argument("--markdown", metavar="FILE", help="write the table there, too")
    o = parser.parse_args()
    try:
        numbers = [int(n) for n in o.clients.split(",")]
    except ValueError:
        parser.error(f"--clients {o.clients}: numbers, with commas between them")
    results = [measure(o.build, n, o.seconds, o.users) for n in numbers]
    text = "\n".join(table(numbers, results)) + "\n"
    print(text, end="")
    if o.markdown:
        with open(o.markdown, "w") as f:
            f.write(text)


if __name__ == "__main__":
    main()
