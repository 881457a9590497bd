#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Whom `samepage run` believes, and the surroundings it is started in: settings, file systems, limits."""

import os
import resource
import signal
import socket
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import tap  # noqa: E402
from cli_helper import NOBODY, SAMEPAGE, Case, has_userfaultfd_for_all  # noqa: E402

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


@unittest.skipIf(os.geteuid(), "needs root to act for another user")
class ServesOthers(Case):
    """A daemon that everybody can reach and that serves one user, who is not ours."""

    def setUp(self):
        super().setUp()
        self.socket = self.daemon(f"{self.runtime}/samepage/socket", "--only-uid", "4242")
        os.chmod(self.runtime, 0o777)

    def test_run_does_without(self):
        status, out, err = self.samepage("run", "--verbose", "--", "sh", "-c", "echo $SAMEPAGE_SOCKET")
        self.assertEqual(status, 0, err)
        self.assertNotIn(self.socket, out + err)
        self.assertIn("private daemon at ", err)

    def test_named(self):
        self.assertFailure(self.samepage("run", "--socket", self.socket, "--", "true"), 125, "serves others only")

    @unittest.skipIf(has_userfaultfd_for_all(), "here every user has userfaultfd")
    def test_doctor(self):
        status, out, _ = self.samepage_of_nobody("doctor")
        self.assertEqual(status, 1, out)
        self.assertNotIn(self.socket, out)


class Settings(Case):
    def test_set_with_a_daemon(self):
        """A daemon that runs already has settings of its own: whoever sets something is told."""
        socket_path = self.daemon()
        status, out, err = self.samepage("run", "--socket", socket_path, "--set", "map_percent=50", "--", "echo", "hello")
        self.assertEqual((status, out), (0, "hello\n"))
        self.assertIn("settings of its own", err)
        self.set(SAMEPAGE_SET="map_percent=50")
        self.assertEqual(self.samepage("run", "--socket", socket_path, "--", "echo", "hello"), (0, "hello\n", ""))


@unittest.skipIf(os.geteuid(), "needs root to mount")
class Containers(Case):
    def test_overlay(self):
        """Where a mapped file looks unused the files of a private daemon are elsewhere."""
        # Refused in a chroot, where / is not a mount, and in containers without the privilege.
        unshare = ["unshare", "--mount"]
        p = subprocess.run([*unshare, "true"], text=True, capture_output=True, timeout=60)
        if p.returncode:
            self.skipTest(f"no mounts of one's own here: {p.stderr.strip()}")
        for name in ("upper", "work", "root"):
            os.mkdir(f"{self.runtime}/{name}")
        tmpfs, root = f"{self.runtime}/upper", f"{self.runtime}/root"
        script = f"""
            mount -t tmpfs none {tmpfs} && mkdir {tmpfs}/u {tmpfs}/w &&
            mount -t overlay -o lowerdir={self.runtime}/work,upperdir={tmpfs}/u,workdir={tmpfs}/w none {root} ||
                exit 77
            XDG_RUNTIME_DIR={root} exec {SAMEPAGE} run -- sh -c 'echo $SAMEPAGE_SOCKET'"""
        p = subprocess.run([*unshare, "sh", "-c", script], env=self.environment, text=True,
                           capture_output=True, timeout=60)
        if p.returncode == 77:
            self.skipTest(p.stderr.strip())
        self.assertEqual((p.returncode, p.stderr), (0, ""))
        self.assertTrue(p.stdout.startswith("/"), p.stdout)
        self.assertNotIn(root, p.stdout)


class Signals(Case):
    def test_any_signal_is_for_the_command(self):
        """With --summary there is a process between: nothing that is sent to it may end it and leave CMD alone."""
        script = ("import signal, sys\n"
                  "signals = signal.valid_signals()\n"
                  "sent = [int(s) for s in sys.argv[1:]]\n"
                  "signal.pthread_sigmask(signal.SIG_BLOCK, signals)\n"
                  "print('ready', flush=True)\n"
                  "while sent:\n"
                  "    s = int(signal.sigwait(signals))\n"
                  "    sent.remove(s)\n"
                  "    print(s, flush=True)\n")
        sent = [signal.SIGABRT, signal.SIGPROF, signal.SIGVTALRM, signal.SIGIO, signal.SIGPWR, signal.SIGXCPU,
                signal.SIGPIPE, signal.SIGURG, signal.SIGRTMIN, signal.SIGRTMAX, signal.SIGTERM]
        p = self.popen("run", "--summary", "--", "/usr/bin/python3", "-c", script, *(str(int(s)) for s in sent))
        self.assertEqual(p.stdout.readline(), "ready\n")
        for s in sent:
            p.send_signal(s)
            self.assertEqual(p.stdout.readline(), f"{int(s)}\n")
        self.assertEqual(p.wait(60), 0)


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
