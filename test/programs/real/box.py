# SPDX-License-Identifier: MIT
"""Where a workload runs: a directory of its own and, when the box shares, a samepaged of its own under which
every command is started by `samepage run --all`. The workload does not know which it is.

A box knows what memory its programs take (the sum of their proportional set sizes, so that shared pages count once)
and how long what was declared to be the work has taken. Whatever a workload has started is gone when it is closed.
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time

TOP = os.path.abspath(os.path.join(os.path.dirname(__file__), "../../.."))
SETTLE_SECONDS = 12
STABLE_SECONDS = 2.5
COMMAND_SECONDS = 300


class Failed(Exception):
    """What the workload found out about the program: it did not do what it should."""


def become_subreaper():
    """So that what programs detach stays below this process, and is found."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def descendants(root):
    """Process numbers below `root`, itself not included."""
    children = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
            parent = int(f.read().rsplit(")", 1)[1].split()[1])
            children.setdefault(parent, []).append(int(pid))
    found, todo = [], [root]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def pss_bytes(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
        for line in f:
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


class Box:
    def __init__(self, build, shares, early=False):
        """`early`: programs are merged from their beginning, not only when they have lived for a while."""
        self.build, self.shares = os.path.abspath(build), shares
        self.directory = tempfile.mkdtemp(prefix="programs-")
        os.chmod(self.directory, 0o755)
        self.environment = {k: v for k, v in os.environ.items()
                            if not k.startswith("SAMEPAGE") and k not in ("LD_PRELOAD", "PYTHONDONTWRITEBYTECODE")}
        self.environment.update(LC_ALL="C.UTF-8", HOME=self.directory, PYTHONHASHSEED="0")
        if early:
            self.environment["SAMEPAGE_SET"] = "worker_start_millisecs=0"
        self.seconds = 0.0  # that timed() has measured
        self.memory_bytes = 0  # at the end of settle(), 0: there was none
        self.saved_bytes = 0  # the most seen at any moment
        self.states = {}  # of clients that do not merge: name -> state
        self.daemon = None
        self.others = set(descendants(os.getpid()))
        if shares:
            self.start_daemon()

    def path(self, name):
        return os.path.join(self.directory, name)

    # ---- sharing -------------------------------------------------------------------------------------------

    def start_daemon(self):
        self.socket = self.path("daemon/socket")
        read, write = os.pipe()
        self.daemon = subprocess.Popen([f"{self.build}/samepaged", "--socket", self.socket, "--ready-fd", str(write)],
                                       pass_fds=[write], stderr=subprocess.DEVNULL, env=self.environment)
        os.close(write)
        ready = os.read(read, 1)
        os.close(read)
        if not ready:
            raise Failed("samepaged did not start")
        self.others.add(self.daemon.pid)
        self.watching = threading.Event()
        self.watcher = threading.Thread(target=self.watch, daemon=True)
        self.watcher.start()

    def status(self):
        out = subprocess.run([f"{self.build}/samepage", "status", "--json", "--socket", self.socket],
                             capture_output=True, env=self.environment)
        return [d for one in json.loads(out.stdout or "{}").get("daemons", []) for d in one["domains"]]

    def saved_now(self):
        domains = self.status()
        for client in (c for d in domains for c in d["clients"]):
            if client["state"] not in ("running", "starting", "idle"):
                self.states[client["name"]] = client["state"]
        saved = sum(d["saved_bytes"] for d in domains)
        self.saved_bytes = max([self.saved_bytes, saved] + [d["saved_peak_bytes"] for d in domains])
        return saved

    def watch(self):
        while not self.watching.wait(1.0):
            with contextlib.suppress(ValueError, OSError):
                self.saved_now()

    # ---- commands ------------------------------------------------------------------------------------------

    def words(self, words):
        run = [f"{self.build}/samepage", "run", "--all", "--socket", self.socket, "--"] if self.shares else []
        return run + [str(w) for w in words]

    def start(self, words, plain=False, **options):
        """A process of the program. `plain`: one that belongs to the test, such as what makes load or checks."""
        options.setdefault("env", self.environment)
        options.setdefault("cwd", self.directory)
        options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.Popen([str(w) for w in words] if plain else self.words(words), **options)

    def finish(self, process, words="", seconds=COMMAND_SECONDS, status=0):
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired as late:
            process.kill()
            process.communicate()
            raise Failed(f"{words}: not done after {seconds} s") from late
        if status is not None and process.returncode != status:
            said = ((err or b"") + (out or b"")).decode(errors="replace").strip().splitlines()
            raise Failed(f"{words}: status {process.returncode}: {' / '.join(said[-3:])[:300]}")
        return out

    def run(self, words, plain=False, seconds=COMMAND_SECONDS, status=0, **options):
        """Runs to its end; returns what it wrote on its standard output."""
        options.setdefault("stderr", subprocess.PIPE)
        process = self.start(words, plain, stdout=subprocess.PIPE, **options)
        return self.finish(process, os.path.basename(str(words[0])), seconds, status)

    def run_many(self, n, words, **options):
        """n at once, which start together; their outputs."""
        processes = [self.start(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options) for _ in range(n)]
        return [self.finish(p, os.path.basename(str(words[0]))) for p in processes]

    def talk_many(self, n, words, sentences):
        """n at once that load, say a line and wait for one: memory is measured between. Each sentence is said to all,
        then all answers are heard; the answers are what is returned. The time of the second one on is the work."""
        processes = [self.start(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
                     for _ in range(n)]
        heard = [self.hear(p) for p in processes]
        self.settle()
        with self.timed():
            for sentence in sentences:
                for p in processes:
                    p.stdin.write(sentence.encode() + b"\n")
                    p.stdin.flush()
                heard += [self.hear(p) for p in processes]
        for p in processes:
            self.finish(p, words[0])
        return heard

    @staticmethod
    def hear(process):
        line = process.stdout.readline()
        if not line:
            raise Failed(f"{os.path.basename(process.args[-1])}: ended without an answer, status {process.wait()}")
        return line

    # ---- measuring -----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def timed(self):
        begin = time.monotonic()
        yield
        self.seconds += time.monotonic() - begin

    def programs(self):
        return [p for p in descendants(os.getpid()) if p not in self.others]

    def settle(self):
        """Waits until sharing has come to its end, and measures."""
        end, best, since = time.monotonic() + SETTLE_SECONDS, -1, time.monotonic()
        while self.shares and time.monotonic() < end and time.monotonic() - since < STABLE_SECONDS:
            saved = self.saved_now()
            if saved > best * 1.01 + 65536:
                best, since = saved, time.monotonic()
            time.sleep(0.2)
        self.memory_bytes = max(self.memory_bytes, sum(map(pss_bytes, self.programs())))

    # ---- the end -------------------------------------------------------------------------------------------

    def close(self):
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            for pid in self.programs():
                with contextlib.suppress(OSError):
                    os.kill(pid, signal_number)
            end = time.monotonic() + 5
            while self.programs() and time.monotonic() < end:
                self.reap()
                time.sleep(0.05)
        if self.daemon:
            self.watching.set()
            self.watcher.join()
            self.daemon.terminate()
            self.daemon.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def reap(self):
        for pid in self.programs():
            with contextlib.suppress(OSError):
                os.waitpid(pid, os.WNOHANG)
