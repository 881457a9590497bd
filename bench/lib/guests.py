# SPDX-License-Identifier: MIT
"""QEMU guests (TCG), for unmodified.py: Debian's kernel and a small userland, as the demo has them (demo/prepare
fetches and builds them; --guest-files says where they are). All are alive at once; in the end each is asked whether it
answers, and for a checksum over all of its files, which was computed when they were made.

KSM's published demonstration is 52 guests of 1 GB on a host with 16 GB. Unmanaged, a few are measured, and what all
would need is extrapolated from those."""

import json
import time

from .machine import Failure, read
from .programs import hear, say

BOOT_SECONDS = 1800
# More at once would only wait for each other, as long as all of them together take.
BOOT_AT_ONCE = 8


class Guests:
    def __init__(self, context, directory, n):
        self.context, self.n, self.running = context, n, []
        self.expected = json.loads(read(f"{context.guest_files}/expected.json"))

    def words(self):
        files = self.context.guest_files
        machine = f"-accel tcg -m {self.context.guest_mib}M -nodefaults -display none -no-reboot -serial stdio"
        return ["qemu-system-x86_64", *machine.split(), "-kernel", f"{files}/vmlinuz", "-initrd", f"{files}/initramfs",
                "-append", "console=ttyS0 quiet panic=-1"]

    def start(self, side):
        booting = []
        for _ in range(self.n):
            if len(booting) == BOOT_AT_ONCE:
                self.ready(booting.pop(0))
            booting.append(side.start(self.words()))
            self.running.append(booting[-1])
        for p in booting:
            self.ready(p)

    def ready(self, p):
        if hear(p, "demo: ready", BOOT_SECONDS) is None:
            raise Failure(f"a guest does not boot (exit status {p.poll()})")

    def ask(self, word, answer):
        for p in self.running:
            say(p, word)
        for i, p in enumerate(self.running):
            said = hear(p, "demo: ", BOOT_SECONDS)
            if not said or not said.startswith(f"demo: {answer}"):
                raise Failure(f"guest {i + 1} of {self.n} said {said!r} when asked to {word}")

    def check(self):
        self.ask("ping", "pong")
        self.ask("sum", f"sum {self.expected['sum']}")
        for p in self.running:
            say(p, "off")
        deadline = time.monotonic() + BOOT_SECONDS
        for p in self.running:
            if p.wait(max(1, deadline - time.monotonic())):
                raise Failure(f"a guest ended with status {p.returncode}")
