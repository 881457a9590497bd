#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Builds the guests' initramfs (demo/prepare calls it): busybox, init and the data that the guests load.

The data are real and pseudo random: kernel modules of the guests' own package, up to a limit, and random bytes
from a fixed seed. What the guests' checksums must be, before and after they change part of it, is computed here
from the same bytes and written to expected.json: the guests' answers are held against it.

initramfs.py KERNEL_TREE BUSYBOX INIT OUT_DIRECTORY
"""

import hashlib
import itertools
import json
import os
import random
import sys

MODULES_BYTES = 24 << 20
RANDOM_BYTES = 8 << 20
SEED = 4096


inode_numbers = itertools.count(1)


def entry(name, mode, data=b""):
    """One member of a cpio archive in the kernel's "newc" format (Documentation/driver-api/early-userspace)."""
    name = name.encode() + b"\0"
    fields = [next(inode_numbers), mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0]
    header = b"070701" + b"".join(b"%08X" % f for f in fields)
    return padded(header + name) + padded(data)


def padded(b):
    return b + bytes(-len(b) % 4)


def modules(tree):
    """The largest modules first, until the limit."""
    paths = [os.path.join(d, f) for d, _, files in os.walk(f"{tree}/lib/modules") for f in files if f.endswith(".ko")]
    total = 0
    for path in sorted(paths, key=lambda p: (-os.path.getsize(p), p)):
        with open(path, "rb") as f:
            data = f.read()
        total += len(data)
        if total > MODULES_BYTES:
            return
        yield os.path.basename(path), data


def checksum(files):
    """What `cat /data/* | md5sum` says in the guest: shells sort names."""
    h = hashlib.md5()
    for name in sorted(files):
        h.update(files[name])
    return h.hexdigest()


def changed(files):
    """What `change` does in the guest (see init)."""
    part = files["00-busybox"][:256 * 4096]
    data = files["10-random"]
    at = 100 * 4096
    return files | {"10-random": data[:at] + part + data[at + len(part):]}


def main():
    tree, busybox, init, out = sys.argv[1:]
    files = {f"20-{name}": data for name, data in modules(tree)}
    files["10-random"] = random.Random(SEED).randbytes(RANDOM_BYTES)
    with open(busybox, "rb") as f:
        files["00-busybox"] = f.read()
    with open(init, "rb") as f:
        init_text = f.read()
    with open(f"{out}/initramfs", "wb") as f:
        for name in ("bin", "dev", "seed"):
            f.write(entry(name, 0o040755))
        f.write(entry("bin/busybox", 0o100755, files["00-busybox"]))
        f.write(entry("init", 0o100755, init_text))
        for name, data in files.items():
            f.write(entry(f"seed/{name}", 0o100644, data))
        f.write(entry("TRAILER!!!", 0))
    with open(f"{out}/expected.json", "w") as f:
        json.dump({"bytes": sum(map(len, files.values())), "sum": checksum(files), "changed": checksum(changed(files))},
                  f, indent=1)


if __name__ == "__main__":
    main()
