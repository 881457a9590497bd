# SPDX-License-Identifier: MIT
"""Reads memory out of a core file (elf(5)): what a debugger would find at an address."""

import struct

ODD, WORD = 0x9E3779B97F4A7C15, 1 << 64
PAGE = 4096
PT_LOAD = 1


def page_content(number):
    """A page of area.h with this number."""
    return struct.pack("<512Q", *((number * ODD + i) % WORD for i in range(512)))


class CoreFile:
    """The loaded segments of an ELF64 core, little endian."""

    def __init__(self, path):
        self.file = open(path, "rb")
        header = self.file.read(64)
        if header[:6] != b"\x7fELF\x02\x01":
            raise ValueError("not an ELF64 file")
        offset, = struct.unpack_from("<Q", header, 32)
        size, count = struct.unpack_from("<HH", header, 54)
        if count == 0xFFFF:  # PN_XNUM: the count is in the first section header
            sections, = struct.unpack_from("<Q", header, 40)
            self.file.seek(sections + 44)
            count, = struct.unpack("<I", self.file.read(4))
        self.file.seek(offset)
        table = self.file.read(size * count)
        self.segments = []
        for i in range(count):
            kind, _, at, address, _, filesz, _, _ = struct.unpack_from("<IIQQQQQQ", table, i * size)
            if kind == PT_LOAD and filesz:
                self.segments.append((address, address + filesz, at))

    def page(self, address):
        """Its content; None: the dump does not have it."""
        for start, end, at in self.segments:
            if start <= address < end:
                self.file.seek(at + address - start)
                return self.file.read(PAGE)
        return None

    def close(self):
        self.file.close()
