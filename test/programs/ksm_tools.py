# SPDX-License-Identifier: MIT
"""Inside `samepage run --ksm-files`: merges memory, then has a tool read or write the files. Arguments: the tool's
name and a directory to work in. Prints "same" when the tool says what the files say."""

import json
import mmap
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request

KSM = "/sys/kernel/mm/ksm"
WAIT_S = 60


def value(name):
    with open(f"{KSM}/{name}", encoding="ascii") as f:
        return int(f.read())


def until(condition):
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def fetch(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def same(said, names):
    """Whether said() gives what the files say, which may change meanwhile."""
    def now():
        before = [value(n) for n in names]
        found = said()
        return found == before == [value(n) for n in names]
    return until(now)


def served(words, said, names):
    """A program that runs until it is told to end, and is asked meanwhile."""
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as p:
        try:
            return same(said, names)
        finally:
            p.terminate()


def atop(directory):
    def said():
        out = subprocess.run(["atop", "-P", "MEM", "1", "1"], capture_output=True, text=True, check=False).stdout
        fields = re.search("^MEM .*$", out, re.M)[0].split()
        return [int(fields[22]), int(fields[23])]
    return same(said, ["pages_sharing", "pages_shared"])


def node_exporter(directory):
    port = free_port()
    names = {"pages_shared": "node_ksmd_pages_shared", "pages_sharing": "node_ksmd_pages_sharing",
             "pages_unshared": "node_ksmd_pages_unshared", "run": "node_ksmd_run",
             "merge_across_nodes": "node_ksmd_merge_across_nodes", "sleep_millisecs": "node_ksmd_sleep_seconds"}

    def said():
        text = fetch(f"http://127.0.0.1:{port}/metrics")
        found = dict(re.findall(r"^(node_\w+)(?:\{.*\})? (\S+)$", text, re.M))
        if found.get("node_scrape_collector_success") != "1":
            return None
        return [round(float(found[m]) * (1000 if "seconds" in m else 1)) for m in names.values()]
    return served(["prometheus-node-exporter", "--collector.disable-defaults", "--collector.ksmd",
                   f"--web.listen-address=127.0.0.1:{port}"], said, list(names))


def netdata(directory):
    port = free_port()
    for name in ("cache", "lib", "log"):
        os.mkdir(f"{directory}/{name}")
    plugins = "timex checks idlejitter tc diskspace cgroups apps python.d charts.d go.d ebpf perf slabinfo nfacct"
    with open(f"{directory}/netdata.conf", "w", encoding="ascii") as f:
        f.write(f"[global]\nrun as user = root\n[directories]\nconfig = {directory}\ncache = {directory}/cache\n"
                f"lib = {directory}/lib\nlog = {directory}/log\nregistry = {directory}/lib\n[db]\nmode = ram\n"
                "[health]\nenabled = no\n[ml]\nenabled = no\n[statsd]\nenabled = no\n"
                f"[web]\nbind to = 127.0.0.1:{port}\n"
                "[plugins]\nenable running new plugins = no\n" + "".join(f"{p} = no\n" for p in plugins.split()))

    def said():
        text = fetch(f"http://127.0.0.1:{port}/api/v1/data?chart=mem.ksm&after=-1&format=json&options=absolute")
        try:
            answer = json.loads(text)
            row = dict(zip(answer["labels"], answer["data"][0]))
            return [round(row["sharing"] * 256), round(row["shared"] * 256)]  # MiB
        except (ValueError, LookupError, TypeError):
            return None
    return served(["netdata", "-D", "-c", f"{directory}/netdata.conf", "-P", f"{directory}/pid"], said,
                  ["pages_sharing", "pages_shared"])


def ksmtuned(directory):
    """It starts merging and works harder and harder where memory is short, and stops it where it is not: each as its
    settings say."""
    def tuned(coefficient, condition, start):
        with open(f"{KSM}/run", "w", encoding="ascii") as f:
            f.write(start)
        environment = {**os.environ, "KSM_MONITOR_INTERVAL": "1", "KSM_THRES_COEF": coefficient,
                       "PIDFILE": f"{directory}/pid"}
        subprocess.run(["ksmtuned"], env=environment, check=True, stdout=subprocess.DEVNULL)
        try:
            return until(condition)
        finally:
            with open(f"{directory}/pid", encoding="ascii") as f:
                os.kill(int(f.read()), signal.SIGKILL)
    total = int(re.search(r"MemTotal:\s+(\d+)", open("/proc/meminfo", encoding="ascii").read())[1])
    sleep = max(10, 10 * 16 * 1024 * 1024 // total)
    return (tuned("200", lambda: value("pages_to_scan") == 900 and value("run") == 1, "0")
            and value("sleep_millisecs") == sleep and tuned("0", lambda: value("run") == 0, "1"))


def main():
    tool, directory = sys.argv[1:]
    data = b"samepage" * (1 << 18)
    m = mmap.mmap(-1, len(data), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    m[:] = data
    m.madvise(mmap.MADV_MERGEABLE)
    if not until(lambda: value("pages_sharing") > 400):
        print("nothing was merged")
    else:
        print("same" if globals()[tool](directory) else "different")


main()
