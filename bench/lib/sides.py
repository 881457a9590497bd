# SPDX-License-Identifier: MIT
"""Who merges: nobody, the kernel's KSM in one of several settings, or samepage. A side is made for one repetition:

    command(words)      how a program is started under it; `start` does it
    switch_on()         merging begins, if the side was made with hold=True (otherwise it is on from the start)
    pids, daemon        what works for it besides the programs
    end()               whatever of it does not end with the programs
"""

import os
import signal
import subprocess

from . import settings
from .machine import Failure, ksmd_pid, read
from .programs import LIBC

PR_SET_MEMORY_MERGE = 67
TITLES = {"nobody": "unmanaged", "ksm": "KSM flat out", "ksm-defaults": "KSM, its defaults",
          "ksm-advisor": "KSM, scan-time advisor", "ksm-delay": "KSM, a pause of 1 s", "samepage": "samepage"}


class Side:
    pids = ()
    daemon = None
    target = None  # what bench/poll asks

    def __init__(self, context, name, programs, directory, everything, hold):
        """`everything`: not only what programs advise."""
        self.context, self.name, self.programs, self.everything = context, name, programs, everything

    def command(self, words):
        return list(words)

    def prepare(self):
        """In a program, before exec."""

    def start(self, words, **options):
        return self.programs.start(self.command(words), prepare=self.prepare, **options)

    def switch_on(self):
        pass

    def end(self):
        pass


class Ksm(Side):
    target = "ksm"

    def __init__(self, context, name, programs, directory, everything, hold):
        super().__init__(context, name, programs, directory, everything, hold)
        settings.ksm_empty()
        self.pids = [ksmd_pid()]
        if not hold:
            self.switch_on()

    def switch_on(self):
        settings.ksm_run(self.name)

    def prepare(self):
        if self.everything and LIBC.prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0):
            os._exit(99)

    def end(self):
        settings.ksm_empty()


class Samepage(Side):
    """Its daemon listens in a directory whose name `samepage status` does not look for (samepage-*), so that nobody
    else asks it, least of all while it is held."""

    def __init__(self, context, name, programs, directory, everything, hold):
        super().__init__(context, name, programs, directory, everything, hold)
        if not context.no_ksm:
            settings.ksm_empty()
        self.target = os.path.join(directory, "socket")
        self.daemon = self.start_daemon(f"{directory}/log")
        self.pids = [self.daemon]
        if hold:
            os.kill(self.daemon, signal.SIGSTOP)

    def start_daemon(self, log):
        """Its number, once it listens: held before that it would refuse all that come."""
        ready, told = os.pipe()
        try:
            with open(log, "w", encoding="utf-8") as f:
                daemon = self.programs.start([self.context.samepaged, "--socket", self.target, "--ready-fd", str(told),
                                              *self.context.daemon_words], stdin=subprocess.DEVNULL, stderr=f,
                                             pass_fds=[told])
            os.close(told)
            told = None
            if not os.read(ready, 1):
                raise Failure(f"samepaged did not start (exit status {daemon.wait(60)}): {read(log)}")
        finally:
            os.close(ready)
            if told is not None:
                os.close(told)
        return daemon.pid

    def command(self, words):
        advised = [] if self.everything else ["--advised"]
        return [self.context.samepage, "run", *advised, "--socket", self.target, "--", *words]

    def switch_on(self):
        os.kill(self.daemon, signal.SIGCONT)


def make(context, name, programs, directory, everything=False, hold=False):
    kind = {"nobody": Side, "samepage": Samepage}.get(name, Ksm)
    return kind(context, name, programs, directory, everything, hold)
