#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""One of the demo's python programs: it loads files of this machine into memory and keeps them there.

    worker.py MIB

All workers load the same files, as the workers of a real service load the same data. The memory is anonymous
and private, and is advised for merging through python's own mmap.madvise. What each file's bytes should be (a
SHA-256 per file) is kept in python's heap, which is not advised.

It answers a word a line on stdin: go (advise: "advised"), check ("ok" or "bad FILE"), change (overwrite part of
the files: "changed N"), quit. First of all it says "loaded PID ADDRESS BYTES FILES".
"""

import ctypes
import hashlib
import mmap
import os
import stat
import sys

ROOTS = ("/usr/lib", "/usr/share")
LARGEST_FILE = 8 << 20
CHANGE_EVERY = 20
PAGE = mmap.PAGESIZE


def files():
    """Regular files of the machine, in the same order for everybody."""
    for root in ROOTS:
        for directory, subdirectories, names in os.walk(root):
            subdirectories.sort()
            for name in sorted(names):
                path = os.path.join(directory, name)
                info = os.lstat(path)
                if stat.S_ISREG(info.st_mode) and PAGE <= info.st_size <= LARGEST_FILE:
                    yield path, info.st_size


class Data:
    def __init__(self, size):
        self.memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.view = memoryview(self.memory)
        self.index = {}  # path: [offset, length, SHA-256]
        self.load(size)

    def load(self, size):
        offset = 0
        for path, length in files():
            if offset + length > size:
                break
            with open(path, "rb", buffering=0) as f:
                length = f.readinto(self.view[offset:offset + length])
            self.index[path] = [offset, length, self.digest(offset, length)]
            offset += (length + PAGE - 1) // PAGE * PAGE

    def digest(self, offset, length):
        return hashlib.sha256(self.view[offset:offset + length]).digest()

    def address(self):
        return ctypes.addressof(ctypes.c_char.from_buffer(self.memory))

    def check(self):
        for path, (offset, length, digest) in self.index.items():
            if self.digest(offset, length) != digest:
                return f"bad {path}"
        return "ok"

    def change(self):
        """Makes some files this process's own: turned around, with its PID in front."""
        changed = list(self.index.items())[::CHANGE_EVERY]
        for path, (offset, length, _) in changed:
            new = (b"%d " % os.getpid() + self.view[offset:offset + length].tobytes()[::-1])[:length]
            self.view[offset:offset + length] = new
            self.index[path][2] = hashlib.sha256(new).digest()
        return f"changed {len(changed)}"


def main():
    size = int(sys.argv[1]) << 20
    data = Data(size)
    print("loaded", os.getpid(), data.address(), size, len(data.index), flush=True)
    for line in sys.stdin:
        word = line.strip()
        if word == "go":
            data.memory.madvise(mmap.MADV_MERGEABLE)
            print("advised", flush=True)
        elif word == "check":
            print(data.check(), flush=True)
        elif word == "change":
            print(data.change(), flush=True)
        elif word == "quit":
            return 0
        else:
            print(f"what is {word!r}?", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
