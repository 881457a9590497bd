# SPDX-License-Identifier: MIT
"""A Python program that shares what it can: madvise through the mmap module, fork, and multiprocessing."""

import mmap
import multiprocessing
import os
import sys
import time

PAGE = 4096
PAGES = 4096
MERGEABLE = 12


def page(number):
    return number.to_bytes(8, "little") * (PAGE // 8)


def memory_new(first):
    """Private memory whose two halves are alike, advised."""
    m = mmap.mmap(-1, PAGES * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for i in range(PAGES):
        m[i * PAGE:(i + 1) * PAGE] = page(first + i % (PAGES // 2))
    m.madvise(MERGEABLE)
    return m


def merged_pages():
    total = 0
    with open("/proc/self/maps", encoding="utf-8") as f:
        for line in f:
            if "/memfd:samepage (" in line and "rw-p" in line:
                start, end = (int(x, 16) for x in line.split()[0].split("-"))
                total += (end - start) // PAGE
    return total


def wait_merged(pages):
    for _ in range(6000):
        if merged_pages() >= pages:
            return
        time.sleep(0.01)
    sys.exit(f"only {merged_pages()} of {pages} pages are merged")


def bad_pages(m, first, changed=()):
    changed = dict(changed)
    right = (page(changed.get(i, first + i % (PAGES // 2))) for i in range(PAGES))
    return sum(m[i * PAGE:(i + 1) * PAGE] != content for i, content in enumerate(right))


def child(m, number):
    """Looks at what it inherited, writes to some of it, and merges memory of its own."""
    bad = bad_pages(m, 1)
    changed = {i: 10_000_000 * number + i for i in range(number, PAGES, 7)}
    for i, n in changed.items():
        m[i * PAGE:(i + 1) * PAGE] = page(n)
    own = memory_new(1_000_000 * number)
    time.sleep(0.3)
    return bad + bad_pages(m, 1, changed) + bad_pages(own, 1_000_000 * number)


def forks(m):
    """Several children at a time by os.fork."""
    pids = []
    for number in range(1, 4):
        pid = os.fork()
        if not pid:
            os._exit(child(m, number) != 0)
        pids.append(pid)
    return sum(os.waitpid(pid, 0)[1] != 0 for pid in pids)


def pooled(number):
    return child(MEMORY, number)


if __name__ == "__main__":
    MEMORY = memory_new(1)
    wait_merged(PAGES)
    print("forks_bad", forks(MEMORY))
    with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1) as pool:
        print("pool_bad", sum(pool.map(pooled, range(1, 5), chunksize=1)))
    print("bad", bad_pages(MEMORY, 1))
    MEMORY.close()
    print("left", merged_pages())
