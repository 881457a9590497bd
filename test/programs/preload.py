#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs each case of preload_calls without the shim and with it, on merged memory: every line must be the same.

With it twice: where only advised memory is merged, and where all is.

    preload.py CALLS SHIM SAMEPAGED [CASE...]

The daemon is a private one of this test. TAP on standard output.
"""
import os
import signal
import subprocess
import sys
import tempfile

TIMEOUT_S = 90
# Where there is a worker from the start, what is mapped may be registered before the program's own userfaultfd
# comes, which is then refused (docs/heap.md, limits).
DIFFERENT = {("userfaultfd", "all")}


def daemon_start(samepaged, directory):
    read, write = os.pipe()
    socket, alive = directory + "/socket", directory + "/alive"
    open(alive, "w").close()
    daemon = subprocess.Popen(
        [samepaged, "--socket", socket, "--set", "sleep_millisecs=5,sleep_max_millisecs=20", "--ready-fd", str(write)],
        pass_fds=[write])
    os.close(write)
    ready = os.read(read, 1)
    os.close(read)
    if not ready:
        sys.exit("samepaged did not start")
    environment = {"SAMEPAGE_SOCKET": socket, "SAMEPAGE_ALIVE": alive, "SAMEPAGE_SET": "worker_start_kbytes=0",
                   "SAMEPAGE_VERBOSE": "1"}
    return daemon, environment


def run(command, environment=None):
    full = dict(os.environ, **(environment or {}))
    child = subprocess.Popen(command, env=full, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        out, err = child.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGKILL)
        out, err = child.communicate()
        err += "\n(no end after %d s)" % TIMEOUT_S
    return child.returncode, out, err


def difference(plain, shimmed):
    a, b = plain[1].splitlines(), shimmed[1].splitlines()
    lines = ["exit %d, with the shim %d" % (plain[0], shimmed[0])] if plain[0] != shimmed[0] else []
    for i in range(max(len(a), len(b))):
        left, right = (x[i] if i < len(x) else "(nothing)" for x in (a, b))
        if left != right:
            lines.append("expected: " + left)
            lines.append("got:      " + right)
    if plain[0] or shimmed[2].strip():
        lines.append(plain[2].strip() + " | " + shimmed[2].strip())
    return [line for line in lines if line.strip(" |")]


def environment_cases(calls, shim, environment):
    """Wrong environments: the program runs as ever, and only a verbose one says a line."""
    quiet = {"SAMEPAGE_VERBOSE": "0"}
    for name, change, complaint in [
            ("unknown setting", {"SAMEPAGE_SET": "nonsense=1"}, "SAMEPAGE_SET"),
            ("value out of range", {"SAMEPAGE_SET": "freeze_micros=0"}, "SAMEPAGE_SET"),
            ("garbage", {"SAMEPAGE_SET": "\x01,,=="}, "SAMEPAGE_SET"),
            ("no node", {"SAMEPAGE_SIMULATE_NODE": "1024"}, "SAMEPAGE_SIMULATE_NODE"),
            ("no number of a node", {"SAMEPAGE_SIMULATE_NODE": "1x"}, "SAMEPAGE_SIMULATE_NODE"),
            ("unknown scope", {"SAMEPAGE_SCOPE": "most"}, "SAMEPAGE_SCOPE"),
            ("empty socket", {"SAMEPAGE_SOCKET": ""}, "SAMEPAGE_SOCKET"),
            ("long socket", {"SAMEPAGE_SOCKET": "/" + "x" * 300}, "SAMEPAGE_SOCKET"),
            ("neither 0 nor 1", {"SAMEPAGE_MERGE_ANY": "yes"}, None),
            ("nobody listens", {"SAMEPAGE_SOCKET": "/nowhere/socket"}, None),
            ("no such alive file", {"SAMEPAGE_ALIVE": "/nowhere/alive"}, None)]:
        full = {**environment, "LD_PRELOAD": shim, **change}
        code, out, err = run([calls], full)
        silent = run([calls], {**full, **quiet})
        good = code == 0 and out == silent[1] and silent[2] == "" and len(out) > 100
        good = good and (err.count("\n") == 1 and complaint in err if complaint else err == "")
        yield "environment: " + name, [] if good else ["exit %d: %s" % (code, err)]


def main():
    calls, shim, samepaged = (os.path.abspath(p) for p in sys.argv[1:4])
    cases = sys.argv[4:] or run([calls])[1].split()
    failed = 0
    results = []
    with tempfile.TemporaryDirectory() as directory:
        daemon, environment = daemon_start(samepaged, directory)
        try:
            for case in cases:
                plain = run([calls, case])
                for scope in ("advised", "all"):
                    if (case, scope) in DIFFERENT:
                        continue
                    shimmed = run([calls, case], {**environment, "LD_PRELOAD": shim, "SAMEPAGE_SCOPE": scope})
                    results.append((f"{case} ({scope})", difference(plain, shimmed)))
                    failed += report(len(results), *results[-1])
            if len(sys.argv) == 4:
                for name, lines in environment_cases(calls, shim, environment):
                    results.append((name, lines))
                    failed += report(len(results), name, lines)
        finally:
            daemon.terminate()
            daemon.wait()
    print("1..%d" % len(results))
    return 1 if failed else 0


def report(number, name, lines):
    print("%sok %d - %s" % ("not " if lines else "", number, name))
    for line in lines:
        print("# " + line)
    sys.stdout.flush()
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
