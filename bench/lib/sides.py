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
import time

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
    def __init__(self, context, name, programs, directory, everything, hold):
        super().__init__(context, name, programs, directory, everything, hold)
        if not context.no_ksm:
            settings.ksm_empty()
        self.target = os.path.join(directory, "socket")
        with open(f"{directory}/log", "w", encoding="utf-8") as log:
            daemon = programs.start([context.samepaged, "--socket", self.target, *context.daemon_words],
                                    stdin=subprocess.DEVNULL, stderr=log)
        self.daemon = daemon.pid
        self.pids = [daemon.pid]
        deadline = time.monotonic() + 60
        while not os.path.exists(self.target):
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise Failure(f"samepaged did not start (exit status {daemon.poll()}): {read(directory + '/log')}")
            time.sleep(0.01)
        if hold:
            os.kill(self.daemon, signal.SIGSTOP)

    def command(self, words):
        advised = [] if self.everything else ["--advised"]
        return [self.context.samepage, "run", *advised, "--socket", self.target, "--", *words]

    def switch_on(self):
        os.kill(self.daemon, signal.SIGCONT)


def make(context, name, programs, directory, everything=False, hold=False):
    kind = {"nobody": Side, "samepage": Samepage}.get(name, Ksm)
    return kind(context, name, programs, directory, everything, hold)
