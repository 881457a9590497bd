#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Whom `samepage run` believes, and limits on the size of files that programs are started with."""

import os
import resource
import socket
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import tap  # noqa: E402
from cli_helper import NOBODY, Case  # noqa: E402

# Advises pages that are all the same and waits until they are merged.
SHARER = """
import mmap, time
data = b"samepage" * (1 << 18)
m = mmap.mmap(-1, len(data), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
m[:] = data
m.madvise(mmap.MADV_MERGEABLE)
for i in range(1000):
    if "memfd:samepage " in open("/proc/self/maps").read():
        break
    time.sleep(0.05)
else:
    print("never merged")
print("intact" if m[:] == data else "damaged")
"""


@unittest.skipIf(os.geteuid(), "needs root to act for another user")
class OtherUsers(Case):
    def listener_of_nobody(self, path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.chmod(os.path.dirname(path), 0o777)
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.addCleanup(s.close)
        os.seteuid(NOBODY)
        try:
            s.bind(path)
            s.listen()
        finally:
            os.seteuid(0)
        os.chmod(path, 0o666)
        return path

    def test_daemon_named(self):
        path = self.listener_of_nobody(f"{self.runtime}/x/socket")
        self.assertFailure(self.samepage("run", "--socket", path, "--", "true"), 125, "another user's daemon")
        self.set(SAMEPAGE_SOCKET=path)
        self.assertFailure(self.samepage("run", "--", "true"), 125, "another user's daemon")

    def test_runtime_directory(self):
        """As su(1) leaves XDG_RUNTIME_DIR: neither what listens there is used nor anything put there."""
        self.listener_of_nobody(f"{self.runtime}/samepage/socket")
        os.chown(self.runtime, NOBODY, NOBODY)
        status, out, err = self.samepage("run", "--verbose", "--", "sh", "-c", "echo $SAMEPAGE_SOCKET")
        self.assertEqual(status, 0, err)
        self.assertNotIn(self.runtime, out + err)
        self.assertEqual(os.listdir(self.runtime), ["samepage"])


class FileSizes(Case):
    def run_limited(self, soft, hard, *words):
        return self.samepage("run", "--", *words,
                             preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard)))

    def test_limit(self):
        """Segments are larger than any limit that people set for files."""
        result = self.run_limited(4096, resource.RLIM_INFINITY, "/usr/bin/python3", "-c", SHARER)
        self.assertEqual(result, (0, "intact\n", ""))

    def test_limit_of_the_client(self):
        self.set(SAMEPAGE_SOCKET=self.daemon())
        result = self.run_limited(0, 0, "/usr/bin/python3", "-c", SHARER)
        self.assertEqual(result, (0, "intact\n", ""))

    def test_no_files_at_all(self):
        """Nothing can be stored, but everything runs."""
        self.assertEqual(self.run_limited(0, 0, "echo", "hello"), (0, "hello\n", ""))


if __name__ == "__main__":
    tap.main(sys.argv[1:])
