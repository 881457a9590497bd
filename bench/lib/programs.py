# SPDX-License-Identifier: MIT
"""Programs that a benchmark starts, and talks to a line at a time. Whatever happens, none is left behind: each is
killed with its session, and by the kernel (PR_SET_PDEATHSIG) should the benchmark itself be killed."""

import contextlib
import ctypes
import os
import signal
import subprocess
import threading

from .machine import Failure

LONGEST_ANSWER_S = 900
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


class Programs:
    """All processes started for a repetition; ended with it, in every case."""

    def __init__(self):
        self.children = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for p in self.children:
            kill(p)
        for p in self.children:
            p.wait()
            for stream in (p.stdin, p.stdout):
                if stream:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()

    def start(self, command, prepare=None, **options):
        """`prepare` runs in the child before exec."""
        def in_child():
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if prepare:
                prepare()

        options.setdefault("stdin", subprocess.PIPE)
        p = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1, errors="replace",
                             start_new_session=True, preexec_fn=in_child, **options)
        self.children.append(p)
        return p


def kill(p):
    """The session of a program that has not been waited for: its leader keeps the number taken until then."""
    if p.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(p.pid, signal.SIGKILL)


def words_of(p):
    """Its command in one line, programs among the words cut short."""
    return " ".join(word if "\n" not in word else "..." for word in p.args)


def say(p, line):
    try:
        p.stdin.write(line + "\n")
        p.stdin.flush()
    except BrokenPipeError:
        raise Failure(f"a process has gone: {words_of(p)} (exit status {p.poll()})") from None


def hear(p, beginnings, seconds=LONGEST_ANSWER_S):
    """The next line that begins with one of them; others are passed over. None: the program has ended, or been
    killed because it said nothing for too long."""
    late = threading.Timer(seconds, kill, [p])
    late.start()
    try:
        for line in p.stdout:
            if line.startswith(beginnings):
                return line.strip()
        return None
    finally:
        late.cancel()


def expect(p, beginning, seconds=LONGEST_ANSWER_S):
    """The next line must begin so; what follows, in words."""
    got = hear(p, "", seconds)
    if got is None or not got.startswith(beginning):
        raise Failure(f"a process said {got!r} and not {beginning!r} (exit status {p.poll()}): {words_of(p)}")
    return got[len(beginning):].split()


def tell_all(programs, line, answer):
    """Says it to all, and then waits for all; what follows `answer`, of each."""
    for p in programs:
        say(p, line)
    return [expect(p, answer) for p in programs]


def quit_all(programs):
    for p in programs:
        say(p, "quit")
    for p in programs:
        if p.wait(60) != 0:
            raise Failure(f"a process ended with status {p.returncode}")
