# SPDX-License-Identifier: MIT
"""A terminal to run programs on: what is on its screen, its keys, its size, its settings. The screen is kept by
pyte, which knows no more than a plain terminal does, so that TERM is one without more."""

import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time

import pyte

from cli_helper import WAIT_S

TERM = "screen"


class Terminal:
    """The program runs in a session of its own, with this terminal as its controlling one."""

    def __init__(self, words, environment, rows=24, columns=80, term=TERM):
        self.master, self.slave = os.openpty()
        self.screen = pyte.Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.resize(rows, columns)
        self.before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(words, stdin=self.slave, stdout=self.slave, stderr=self.slave,
                                        env=dict(environment, TERM=term), preexec_fn=self.lead)

    @staticmethod
    def lead():
        for name in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):  # whatever started the tests may ignore them
            signal.signal(name, signal.SIG_DFL)
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def resize(self, rows, columns):
        """The kernel tells the program with SIGWINCH, once it has one."""
        self.screen.resize(rows, columns)
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, keys):
        os.write(self.master, keys.encode())

    def read(self, seconds=0.02):
        """Takes in what was written, if anything."""
        while select.select([self.master], [], [], seconds)[0]:
            try:
                data = os.read(self.master, 65536)
            except OSError:
                return
            if not data:
                return
            self.raw += data
            self.stream.feed(data)
            seconds = 0

    def lines(self):
        return [line.rstrip() for line in self.screen.display]

    def text(self):
        return "\n".join(self.lines())

    def wait(self, condition, what):
        """Until condition(lines) gives something true, which is returned."""
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            self.read()
            found = condition(self.lines())
            if found:
                return found
        raise AssertionError(f"never on the screen: {what}\n{self.text()}")

    def wait_text(self, text):
        self.wait(lambda lines: text in "\n".join(lines), text)

    def wait_end(self):
        """Its exit status, negative for a signal."""
        end = time.monotonic() + WAIT_S
        while self.process.poll() is None:
            self.read()
            assert time.monotonic() < end, f"does not end\n{self.text()}"
        self.read()
        return self.process.returncode

    def settings(self):
        return termios.tcgetattr(self.slave)

    def close(self):
        for fd in (self.master, self.slave):
            try:
                os.close(fd)
            except OSError:
                pass
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
