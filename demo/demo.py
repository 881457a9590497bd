#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The demo: real, unmodified programs share their memory, and do not notice.

Three QEMU guests boot Debian's kernel, four python3 processes load files of this machine; QEMU advises its
guests' memory for merging by itself, python by mmap.madvise. All run under `samepage run` with a samepaged of
their own. In this order:

 1. The programs start; samepaged is held (SIGSTOP), so nothing is shared before everything has been loaded.
 2. What is duplicate is counted from outside (census.py), and the memory of the programs.
 3. samepaged goes on. The time runs until the programs' memory shrinks no more.
 4. Both are counted again, every program compares its memory with its own record, guests are asked for
    checksums, which were computed when their data was made (initramfs.py).
 5. All programs overwrite part of what they share, and are checked again; then they end by themselves.

Exit status 0 only when at least 90 % of the duplicate memory was shared and every check was right. Whatever
happens, no process is left behind.
"""

import argparse
import contextlib
import ctypes
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(HERE)
sys.path.insert(0, HERE)

from census import PAGE, anonymous_range, census, machine_bytes, own_bytes, store_bytes  # noqa: E402

GUESTS = 3
GUEST_MIB = 256
WORKERS = 4
WORKER_MIB = 128
SHARE_FLOOR = 0.90
# Sharing is over when memory has shrunk by less than this part of the possible for this long.
STABLE_SHARE = 0.005
STABLE_SECONDS = 4
SHARE_SECONDS = 90
ANSWER_SECONDS = 90


class Failure(Exception):
    pass


# ---- programs ------------------------------------------------------------------------------------------------


def die_with_parent(how):
    """In the child: should this script be killed, the kernel ends its programs (PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, how)


def parent_of(pid):
    with open(f"/proc/{pid}/stat") as f:
        return int(f.read().rpartition(")")[2].split()[1])


def descendants(root):
    """The process and all below it."""
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            parents[int(name)] = parent_of(name)
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


class Program:
    """A running command that answers lines with lines."""

    def __init__(self, name, command, die=signal.SIGTERM, stderr=None):
        self.name = name
        self.lines = queue.Queue()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True,
                                        bufsize=1, errors="replace", start_new_session=True,
                                        preexec_fn=lambda: die_with_parent(die))
        threading.Thread(target=self.read_lines, daemon=True).start()

    def read_lines(self):
        with contextlib.suppress(ValueError):
            for line in self.process.stdout:
                self.lines.put(line.strip())
        self.lines.put(None)

    def say(self, word):
        try:
            self.process.stdin.write(word + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failure(f"{self.name} has gone (status {self.process.poll()})") from None

    def hear(self, start=""):
        """The next line that begins with `start`, without it."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            try:
                line = self.lines.get(timeout=max(0, deadline - time.monotonic()))
            except queue.Empty:
                raise Failure(f"{self.name} does not answer") from None
            if line is None:
                raise Failure(f"{self.name} has ended (status {self.process.wait()})")
            if line.startswith(start):
                return line[len(start):].strip()

    def end(self):
        """Waits for the program to end by itself, successfully."""
        try:
            status = self.process.wait(30)
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.name} does not end") from None
        if status != 0:
            raise Failure(f"{self.name} ended with status {status}")

    def kill(self):
        """The program and all it started; they share a session, but a child may have left it."""
        for pid in descendants(self.process.pid) if self.process.poll() is None else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Guest(Program):
    """A QEMU guest; `pid` is QEMU's and `range` the guest's memory in it."""

    def __init__(self, number, run, files):
        super().__init__(f"guest {number}", run + [
            "qemu-system-x86_64", "-accel", "tcg", "-m", f"{GUEST_MIB}M", "-display", "none", "-nodefaults",
            "-no-reboot", "-serial", "stdio", "-kernel", f"{files}/vmlinuz", "-initrd", f"{files}/initramfs",
            "-append", "console=ttyS0 quiet panic=-1"])
        self.range = None

    def find_memory(self):
        """As soon as QEMU has it."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise Failure(f"{self.name} has ended (status {self.process.returncode})")
            for pid in descendants(self.process.pid):
                with contextlib.suppress(OSError):
                    if found := anonymous_range(pid, GUEST_MIB << 20):
                        self.pid, self.range = pid, found
                        return
            time.sleep(0.02)
        raise Failure(f"{self.name}: no memory of {GUEST_MIB} MiB in QEMU")

    def ask(self, word):
        self.say(word)
        return self.hear("demo:")

    def checksum(self):
        _, checksum, uptime = self.ask("sum").split()
        return checksum, float(uptime)


class Worker(Program):
    """A python3 process; `pid` and `range` as it says itself."""

    def __init__(self, number, run):
        super().__init__(f"python3 {number}", run + ["/usr/bin/python3", f"{HERE}/worker.py", str(WORKER_MIB)])

    def loaded(self):
        self.pid, address, size, self.files = map(int, self.hear("loaded").split())
        self.range = (self.pid, address, address + size)

    def ask(self, word):
        self.say(word)
        return self.hear()


class Daemon(Program):
    def __init__(self, build, socket):
        # It may be held when the time comes: only SIGKILL ends a stopped process.
        with open(f"{socket}.log", "w") as log:
            super().__init__("samepaged", [f"{build}/samepaged", "--socket", socket], signal.SIGKILL, log)
        self.build, self.socket, self.pid = build, socket, self.process.pid
        deadline = time.monotonic() + 10
        while not os.path.exists(socket):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Failure(f"samepaged did not start (status {self.process.poll()}): {self.said()}")
            time.sleep(0.02)

    def hold(self):
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self):
        os.kill(self.pid, signal.SIGCONT)

    def said(self):
        with open(f"{self.socket}.log") as f:
            return f.read().strip()

    def status(self):
        """What `samepage status --json` says."""
        out = subprocess.run([f"{self.build}/samepage", "status", "--json", "--socket", self.socket], text=True,
                             capture_output=True, timeout=20)
        if out.returncode != 0:
            raise Failure(f"samepage status: {out.stderr.strip()}")
        return json.loads(out.stdout)


# ---- telling ---------------------------------------------------------------------------------------------------


def mib(size):
    return f"{round(size / (1 << 20))} MiB"


class Progress:
    """One line that is rewritten on a terminal, a line every few seconds elsewhere."""

    def __init__(self):
        self.tty = sys.stdout.isatty()
        self.told = 0.0
        self.begun = time.monotonic()

    def show(self, text):
        text = f"[{time.monotonic() - self.begun:4.0f} s] {text}"
        if self.tty:
            print(f"\r\x1b[K{text}", end="", flush=True)
        elif time.monotonic() - self.told >= 3:
            self.told = time.monotonic()
            print(text, flush=True)

    def done(self, text):
        print(f"\r\x1b[K{text}" if self.tty else text, flush=True)


class Checks:
    def __init__(self):
        self.failed = []

    def check(self, ok, text):
        print(f"  {'ok     ' if ok else 'WRONG  '} {text}", flush=True)
        if not ok:
            self.failed.append(text)


# ---- what the demo does ------------------------------------------------------------------------------------------


class Demo:
    def __init__(self, build, directory):
        self.build = build
        self.directory = directory
        self.programs = []
        self.progress = Progress()
        self.checks = Checks()

    def start(self, make, *args):
        program = make(*args)
        self.programs.append(program)
        return program

    def close(self):
        for p in self.programs:
            p.kill()

    def prepare(self):
        out = subprocess.run([f"{HERE}/prepare", f"{self.build}/demo"], stdout=subprocess.PIPE, text=True)
        if out.returncode != 0:
            raise Failure("demo/prepare failed: see above")
        self.files = out.stdout.strip()
        with open(f"{self.files}/expected.json") as f:
            self.expected = json.load(f)

    def start_programs(self):
        self.progress.show("the programs start and load their data")
        socket = f"{self.directory}/socket"
        self.daemon = self.start(Daemon, self.build, socket)
        # Held, it still has a socket that can be connected to; whoever does waits for it.
        self.daemon.hold()
        run = [f"{self.build}/samepage", "run", "--advised", "--socket", socket, "--"]
        self.workers = [self.start(Worker, i + 1, run) for i in range(WORKERS)]
        self.guests = [self.start(Guest, i + 1, run, self.files) for i in range(GUESTS)]
        for w in self.workers:
            w.loaded()
        for g in self.guests:
            g.find_memory()
        for i, g in enumerate(self.guests):
            self.progress.show(f"guests boot ({i} of {GUESTS} are up)")
            g.hear("demo: ready")
        for w in self.workers:
            if w.ask("go") != "advised":
                raise Failure(f"{w.name} could not advise its memory")

    def groups(self):
        return {"guests": self.guests, "python3": self.workers}

    def memory(self):
        sizes = {name: own_bytes(p.pid for p in programs) for name, programs in self.groups().items()}
        sizes["store"] = store_bytes(self.daemon.pid)
        sizes["samepaged"] = own_bytes([self.daemon.pid])
        return sizes

    def count(self):
        return census(p.range for p in self.guests + self.workers)

    def look_before(self):
        self.progress.show("counting what is duplicate")
        self.before = self.count()
        self.memory_before = self.memory()
        self.machine_before = machine_bytes()
        self.progress.done(f"{GUESTS} guests and {WORKERS} python3 processes hold "
                           f"{mib((self.before.pages + self.before.zero_pages) * PAGE)}, of which "
                           f"{mib(self.before.possible_pages * PAGE)} are duplicate and "
                           f"{mib(self.before.zero_pages * PAGE)} are zeros")

    def share(self):
        """Until memory shrinks no more; the time is that of 99 % of what was saved in the end."""
        possible = (self.before.possible_pages + self.before.zero_pages) * PAGE
        total_before = sum(self.memory_before.values())
        begun = time.monotonic()
        samples = []
        self.daemon.go_on()
        while True:
            time.sleep(0.25)
            now = time.monotonic() - begun
            saved = total_before - sum(self.memory().values())
            samples.append((now, saved))
            self.progress.show(f"sharing: {mib(saved)} of {mib(possible)} saved after {now:.1f} s")
            earlier = [s for t, s in samples if t <= now - STABLE_SECONDS]
            # The first pages may take a while, e.g. until a worker has found the daemon.
            if earlier and earlier[-1] > 0.05 * possible and saved - earlier[-1] < STABLE_SHARE * possible:
                break
            if now > SHARE_SECONDS:
                break
        most = samples[-1][1]
        self.share_seconds = next(t for t, s in samples if s >= 0.99 * most)
        self.progress.done(f"shared after {self.share_seconds:.1f} s")

    def look_after(self):
        self.status = self.daemon.status()
        self.memory_after = self.memory()
        self.machine_after = machine_bytes()
        self.progress.show("counting what is shared")
        self.after = self.count()

    # Contents may have changed between the two counts, as guests live on: what can be shared is that of the
    # second, together with the zeros that were there in the first.

    def possible(self):
        return self.after.possible_pages + max(self.before.zero_pages, self.after.zero_pages)

    def shared(self):
        zero_saved = max(0, self.before.zero_pages - len(self.after.zero_frames))
        return self.after.shared_pages + zero_saved

    def tell(self):
        self.progress.done("")
        print(f"{'':34}{'before':>10}{'after':>10}{'saved':>10}")
        names = {"guests": f"{GUESTS} QEMU guests of {GUEST_MIB} MiB", "python3": f"{WORKERS} python3",
                 "store": "what they share (the store)", "samepaged": "samepaged"}
        rows = [(names[k], self.memory_before[k], self.memory_after[k]) for k in names]
        rows.append(("together", sum(self.memory_before.values()), sum(self.memory_after.values())))
        rows.append(("machine (AnonPages + Shmem)", self.machine_before, self.machine_after))
        for name, before, after in rows:
            print(f"{name:34}{mib(before):>10}{mib(after):>10}{mib(before - after):>10}")
        cpu = cpu_seconds(self.status)
        zero_saved = max(0, self.before.zero_pages - len(self.after.zero_frames))
        print(f"""
duplicate memory                  {mib(self.possible() * PAGE)}, zeros included (counted from outside)
shared of it                      {mib(self.shared() * PAGE)}: {self.percent():.1f} %
pages shared                      {self.after.shared_pages} saved by sharing, {zero_saved} pages of zeros given back
time to share                     {self.share_seconds:.1f} s
CPU used by samepage              {cpu:.2f} s""")

    def percent(self):
        return 100 * self.shared() / max(1, self.possible())

    def check_memory(self, when, expected):
        for w in self.workers:
            w.say("check")
        for g in self.guests:
            g.say("sum")
        for w in self.workers:
            answer = w.hear()
            wrong = "" if answer == "ok" else f": {answer}"
            self.checks.check(not wrong, f"{w.name}: {w.files} files {when}{wrong}")
        for g in self.guests:
            _, checksum, uptime = g.hear("demo:").split()
            self.checks.check(checksum == expected, f"{g.name}: data {when}, up for {uptime} s: checksum {checksum}")

    def change_memory(self):
        for p in self.workers + self.guests:
            answer = p.ask("change")
            if not answer.startswith("changed"):
                raise Failure(f"{p.name} could not change its data: {answer}")
        time.sleep(2)  # merging goes on meanwhile

    def end_programs(self):
        for w in self.workers:
            w.say("quit")
        for g in self.guests:
            self.checks.check(g.ask("ping") == "pong", f"{g.name} answers")
            g.say("off")
        for p in self.workers + self.guests:
            p.end()
        self.checks.check(True, "all programs ended by themselves with status 0")

    def run(self):
        self.prepare()
        self.start_programs()
        self.look_before()
        self.share()
        self.look_after()
        self.tell()
        print()
        self.checks.check(self.percent() >= 100 * SHARE_FLOOR,
                          f"{self.percent():.1f} % of the duplicate memory is shared (at least {SHARE_FLOOR:.0%})")
        self.checks.check(self.after.unread_pages == 0, "every page could be read from outside")
        self.check_memory("as loaded", self.expected["sum"])
        self.change_memory()
        self.check_memory("after part of it was overwritten", self.expected["changed"])
        self.end_programs()
        return not self.checks.failed


def cpu_seconds(status):
    """Workers and daemon."""
    ns = 0
    for daemon in status["daemons"]:
        ns += daemon["cpu_ns"] + sum(domain["counters"]["cpu_ns"] for domain in daemon["domains"])
    return ns / 1e9


def check_prerequisites(build):
    if os.geteuid() != 0:
        raise Failure("root is needed: physical addresses, which prove the sharing, are shown to root only")
    for name in (f"{build}/samepage", f"{build}/samepaged"):
        if not os.access(name, os.X_OK):
            raise Failure(f"{name} is missing: make build")
    if not shutil.which("qemu-system-x86_64"):
        raise Failure("qemu-system-x86_64 is missing: tools/setup demo, or apt-get install qemu-system-x86")
    with open("/sys/kernel/mm/ksm/run") if os.path.exists("/sys/kernel/mm/ksm/run") else open(os.devnull) as f:
        if f.read().strip() == "1":
            raise Failure("ksmd is running (/sys/kernel/mm/ksm/run): its sharing could not be told from ours")


def main():
    p = argparse.ArgumentParser(description="guests and python processes share their memory", allow_abbrev=False)
    p.add_argument("--build", default=f"{TOP}/build", help="build directory (%(default)s)")
    args = p.parse_args()
    args.build = os.path.abspath(args.build)
    for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(s, lambda number, _: sys.exit(128 + number))
    try:
        check_prerequisites(args.build)
        with tempfile.TemporaryDirectory(prefix="samepage-demo-") as directory, \
                contextlib.closing(Demo(args.build, directory)) as demo:
            good = demo.run()
    except Failure as e:
        print(f"\ndemo: {e}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # nobody reads any more; and nothing may be written at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    print("\nThe demo worked." if good else "\nThe demo FAILED.")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
