# SPDX-License-Identifier: MIT
"""What is duplicate in the memory of processes, and what of it is shared: found out from outside.

Nothing here comes from samepage. The content of every resident page is read through /proc/PID/mem and hashed; where
it is in physical memory is read from /proc/PID/pagemap (as root). Then, over all ranges together:

    pages - different contents          is what could be saved
    pages - different physical pages    is what is saved

Reading a page that was remapped and not used since puts it into the page tables: hence content first, pagemap
second, where a mapping has a file behind it. In anonymous memory it is the other way round, as reading a hole would
fill it.

Pages of zeros are counted apart: they need not be shared, they can be given back altogether.
"""

import array
import errno
import hashlib
import os
import re
import time

PAGE = 4096
CHUNK_PAGES = 512
PRESENT = 1 << 63
FRAME = (1 << 55) - 1
ZERO = bytes(PAGE)


class Census:
    """Pages are not zero unless the name says so."""

    def __init__(self):
        self.pages = 0
        self.zero_pages = 0
        self.unread_pages = 0
        self.contents = set()
        self.frames = set()
        self.zero_frames = set()

    @property
    def possible_pages(self):
        return self.pages - len(self.contents)

    @property
    def shared_pages(self):
        return self.pages - len(self.frames)

    def add_chunk(self, entries, data):
        for i, entry in enumerate(entries):
            page = data[i * PAGE:(i + 1) * PAGE]
            if page == ZERO:
                self.zero_pages += 1
                self.zero_frames.add(entry & FRAME)
            else:
                self.pages += 1
                self.contents.add(hashlib.blake2b(page, digest_size=16).digest())
                self.frames.add(entry & FRAME)

    def add_present(self, mem, at, entries):
        """Reads runs of present pages only."""
        first = None
        for i, entry in enumerate([*entries, 0]):
            if entry & PRESENT:
                first = i if first is None else first
            elif first is not None:
                data = read_memory(mem, at + first * PAGE, (i - first) * PAGE)
                if data is None:
                    self.unread_pages += i - first
                else:
                    self.add_chunk(entries[first:i], data)
                first = None

    def add_range(self, pid, start, end):
        pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        mem = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            for first, last in file_ranges(pid, start, end):
                for at in range(first, last, CHUNK_PAGES * PAGE):
                    read_memory(mem, at, min(CHUNK_PAGES * PAGE, last - at))
            for at in range(start, end, CHUNK_PAGES * PAGE):
                size = min(CHUNK_PAGES * PAGE, end - at)
                entries = array.array("Q", os.pread(pagemap, size // PAGE * 8, at // PAGE * 8))
                if any(e & PRESENT for e in entries):
                    self.add_present(mem, at, entries)
        finally:
            os.close(pagemap)
            os.close(mem)


def read_memory(mem, at, size):
    """Reads of pages that are frozen at that moment fail with EIO: a freeze is short, so once more."""
    for _ in range(200):
        try:
            data = os.pread(mem, size, at)
            if len(data) == size:
                return data
        except OSError as e:
            if e.errno != errno.EIO:
                raise
        time.sleep(0.005)
    return None


def census(ranges):
    """ranges: (pid, start, end). Needs root: others are shown no physical addresses."""
    c = Census()
    for pid, start, end in ranges:
        c.add_range(pid, start, end)
    return c


def file_ranges(pid, start, end):
    """The parts of the range that are mappings of files, the store's included."""
    for first, last, _, inode in mappings(pid):
        if inode and first < end and last > start:
            yield max(first, start), min(last, end)


def mappings(pid):
    """start, end, permissions, inode"""
    with open(f"/proc/{pid}/maps") as f:
        for line in f:
            start, end, permissions, inode = re.match(r"(\w+)-(\w+) (\S+) \S+ \S+ (\d+)", line).groups()
            yield int(start, 16), int(end, 16), permissions, int(inode)


def own_bytes(pids):
    """Memory of the processes together, without the store: a page that n processes map counts as 1/n in each. The
    store counts for itself, as nobody may have its pages in his page tables just now."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup") as f:
            pss = dict(re.findall(r"^(Pss\w*): +(\d+) kB", f.read(), re.M))
        total += (int(pss["Pss"]) - int(pss["Pss_Shmem"])) * 1024
    return total


def store_bytes(daemon):
    """Memory in the daemon's memfds, each counted once however many descriptors it has."""
    blocks = {}
    for name in os.listdir(f"/proc/{daemon}/fd"):
        path = f"/proc/{daemon}/fd/{name}"
        if os.readlink(path).startswith("/memfd:"):
            info = os.stat(path)
            blocks[info.st_dev, info.st_ino] = info.st_blocks
    return sum(blocks.values()) * 512


def machine_bytes():
    """AnonPages + Shmem of the whole machine."""
    with open("/proc/meminfo") as f:
        kb = dict(re.findall(r"(\w+): +(\d+) kB", f.read()))
    return (int(kb["AnonPages"]) + int(kb["Shmem"])) * 1024


def anonymous_range(pid, size):
    """The private anonymous mapping of exactly this size, or None. To be asked before anything is merged, as merging
    splits mappings."""
    for start, end, permissions, inode in mappings(pid):
        if end - start == size and permissions == "rw-p" and not inode:
            return pid, start, end
    return None
