# SPDX-License-Identifier: MIT
"""Programs that are kept busy for as long as one likes, for bench/decay.py: what is written comes to all of them alike,
as a service with replicas has it, so that what one writes has twins in the others.

    redis       writes and as many reads, of keys at random
    redis-hot   nine of ten of them go to a tenth of the keys, which lie among all others
    guests      one after the other overwrites a megabyte of its data, and sums all of them up

Nothing here is believed: each value that is read must be the one that was written last, and in the end all servers must
hold the same data, and all guests those computed when they were made.
"""

import contextlib
import hashlib
import random
import socket
import threading
import time

from .guests import BOOT_SECONDS, Guests
from .machine import Failure
from .programs import hear, say
from .unmodified import RedisText

TICK_SECONDS = 0.1
HOT_SHARE, HOT_EVERY = 0.9, 10
# Each guest has its turn once in that time.
GUEST_ROUND_SECONDS = 60
ANSWER_SECONDS = 300


def value(prefix, key, version):
    """As RedisText fills it in the first place; later versions look the same."""
    later = f":{version}" if version else ""
    return "".join(hashlib.sha1(f"{prefix}{key}:{k}{later}".encode()).hexdigest() for k in range(1, 26))


def command(*words):
    return f"*{len(words)}\r\n" + "".join(f"${len(w)}\r\n{w}\r\n" for w in words)


class Sequence:
    """What is done with the keys 1 to `keys`, and what it must be answered with."""

    def __init__(self, keys, prefix, hot):
        self.keys, self.prefix, self.hot, self.random, self.versions = keys, prefix, hot, random.Random(1), {}

    def key(self):
        if self.hot and self.random.random() < HOT_SHARE:
            return self.random.randrange(self.keys // HOT_EVERY) * HOT_EVERY + 1
        return self.random.randrange(self.keys) + 1

    def next(self, writes):
        """As many reads as writes: (what is sent, what comes back)."""
        asked, answered = [], []
        for _ in range(writes):
            key = self.key()
            self.versions[key] = self.versions.get(key, 0) + 1
            asked.append(command("SET", f"key:{key}", value(self.prefix, key, self.versions[key])))
            answered.append("+OK\r\n")
            key = self.key()
            text = value(self.prefix, key, self.versions.get(key, 0))
            asked.append(command("GET", f"key:{key}"))
            answered.append(f"${len(text)}\r\n{text}\r\n")
        return "".join(asked).encode(), "".join(answered).encode()


class Load(threading.Thread):
    """Goes on until it is told to stop. What went wrong is raised there."""

    def __init__(self):
        super().__init__(daemon=True)
        self.over, self.wrong, self.done = threading.Event(), None, 0

    def run(self):
        try:
            with contextlib.ExitStack() as stack:
                self.prepare(stack)
                begin, number = time.monotonic(), 0
                while not self.over.wait(max(0, begin + number * self.pause - time.monotonic())):
                    self.turn(number)
                    number += 1
        except (Failure, OSError) as e:
            self.wrong = e

    def prepare(self, stack):
        pass

    def look(self):
        if self.wrong:
            raise Failure(f"the load: {self.wrong}")

    def stop(self):
        self.over.set()
        self.join(ANSWER_SECONDS)
        self.look()


class RedisLoad(Load):
    """The same for all servers of all sides, by one connection to each."""
    pause = TICK_SECONDS

    def __init__(self, programs, writes_per_second):
        super().__init__()
        self.paths = [f"{p.directory}/redis-{i}" for p in programs for i in range(p.n)]
        self.sequence = Sequence(programs[0].values, programs[0].prefix, programs[0].hot)
        self.writes = max(1, round(writes_per_second * TICK_SECONDS))
        self.sockets = []

    def prepare(self, stack):
        for path in self.paths:
            s = stack.enter_context(socket.socket(socket.AF_UNIX))
            s.settimeout(ANSWER_SECONDS)
            s.connect(path)
            self.sockets.append(s)

    def turn(self, number):
        asked, answered = self.sequence.next(self.writes)
        for s in self.sockets:
            s.sendall(asked)
        for s, path in zip(self.sockets, self.paths):
            if s.recv(len(answered), socket.MSG_WAITALL) != answered:
                raise Failure(f"{path} did not answer with what was written")
        self.done += self.writes


class GuestLoad(Load):
    """Guest after guest, of all sides at the same time."""

    def __init__(self, programs):
        super().__init__()
        self.programs, self.most = programs, max(p.n for p in programs)
        self.pause = GUEST_ROUND_SECONDS / self.most

    def turn(self, number):
        at_work = [p for p in self.programs if number % self.most < p.n]
        for word, answer in (("change", "changed"), ("sum", f"sum {at_work[0].expected['changed']}")):
            for p in at_work:
                say(p.running[number % self.most], word)
            for p in at_work:
                said = hear(p.running[number % self.most], "demo: ", BOOT_SECONDS)
                if not said or not said.startswith(f"demo: {answer}"):
                    raise Failure(f"a guest said {said!r} when asked to {word}")
        self.done += 1


class BusyRedis(RedisText):
    prefix, hot = "", False

    def __init__(self, context, directory, n):
        super().__init__(context, directory, n)
        self.values = self.values_per_item * context.items

    @staticmethod
    def load_of(programs, context):
        return RedisLoad(programs, context.writes)


class HotRedis(BusyRedis):
    """With other data: KSM would share those of the two programs, too, which have a daemon each with us."""
    prefix, hot = "hot:", True
    FILL = RedisText.FILL.replace("sha1hex(i", f"sha1hex('{prefix}' .. i")


class BusyGuests(Guests):
    """QEMU advises the memory of its guests for KSM unless told not to: then nobody's would be merged, too."""

    def words(self):
        return super().words() + ["-machine", "mem-merge=off"]

    @staticmethod
    def load_of(programs, context):
        return GuestLoad(programs)

    def check(self):
        self.ask("change", "changed")
        self.expected["sum"] = self.expected["changed"]
        super().check()


PROGRAMS = {"redis": BusyRedis, "redis-hot": HotRedis, "guests": BusyGuests}
