# SPDX-License-Identifier: MIT
"""What the tests of the command line share: running it, daemons of their own, processes."""

import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

BUILD = os.path.abspath(os.environ.get("SAMEPAGE_BUILD", os.path.join(os.path.dirname(__file__), "../../build")))
SAMEPAGE = f"{BUILD}/samepage"
SAMEPAGED = f"{BUILD}/samepaged"
PRELOAD = f"{BUILD}/src/preload/libsamepage-preload.so"
WAIT_S = 60  # for what will happen; no test asserts how long it takes
NOBODY = 65534


def wait_until(condition, what):
    """Waits until condition() gives something true, and returns it."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"never happened: {what}")


def process_state(pid):
    """The letter of /proc/PID/stat; '' when there is no such process. A zombie nobody reaps counts as gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
            state = f.read().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if state in "ZX" else state


def private_daemons(runtime):
    """Process numbers of daemons that listen somewhere below the directory."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                words = f.read().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if os.path.basename(words[0]) == b"samepaged" and any(w.startswith(runtime.encode()) for w in words):
            if process_state(pid):
                found.append(int(pid))
    return found


class Case(unittest.TestCase):
    """Each case has a directory for sockets and an environment in which no daemon of anybody else is found."""

    def setUp(self):
        self.runtime = tempfile.mkdtemp(prefix="sp-cli-")
        os.chmod(self.runtime, 0o755)
        self.addCleanup(shutil.rmtree, self.runtime, True)
        self.environment = {k: v for k, v in os.environ.items()
                            if not k.startswith("SAMEPAGE") and k not in ("LD_PRELOAD", "NO_COLOR")}
        self.environment["XDG_RUNTIME_DIR"] = self.runtime
        self.addCleanup(self.end_daemons)

    def end_daemons(self):
        for pid in private_daemons(self.runtime):
            os.kill(pid, signal.SIGKILL)

    def popen(self, *words, program=SAMEPAGE, **options):
        options.setdefault("env", self.environment)
        for stream in ("stdout", "stderr"):
            options.setdefault(stream, subprocess.PIPE)
        options.setdefault("stdin", subprocess.DEVNULL)
        p = subprocess.Popen([program, *words], text=True, errors="surrogateescape", **options)
        self.addCleanup(self.end_process, p)
        return p

    @staticmethod
    def end_process(p):
        if p.poll() is None:
            p.kill()
        for stream in (p.stdout, p.stderr, p.stdin):
            if stream:
                stream.close()
        p.wait()

    def samepage(self, *words, **options):
        """Runs the command to its end; returns (status, stdout, stderr)."""
        data = options.pop("input", None)
        if data is not None:
            options["stdin"] = subprocess.PIPE
        p = self.popen(*words, **options)
        out, err = p.communicate(data, timeout=WAIT_S)
        return p.returncode, out, err

    def samepage_of_nobody(self, *words, **options):
        """The same for an ordinary user, who cannot have userfaultfd unless the machine gives it to everybody. He
        runs a copy, as the checkout may be where only root can go, such as /root."""
        directory = tempfile.mkdtemp(prefix="sp-cli-")
        self.addCleanup(shutil.rmtree, directory, True)
        os.chmod(directory, 0o755)
        for path in (SAMEPAGE, SAMEPAGED, PRELOAD):
            os.chmod(shutil.copy(path, directory), 0o755)
        return self.samepage(*words, program=f"{directory}/samepage", preexec_fn=become_nobody, **options)

    def set(self, **variables):
        self.environment.update(variables)

    def daemon(self, socket=None, *words):
        """A daemon of the case's own that runs until its end; returns the path of its socket."""
        socket = socket or f"{self.runtime}/daemon/socket"
        read, write = os.pipe()
        p = subprocess.Popen([SAMEPAGED, "--socket", socket, "--ready-fd", str(write), *words], pass_fds=[write],
                             env=self.environment, stderr=subprocess.DEVNULL)
        self.addCleanup(self.end_process, p)
        os.close(write)
        ready = os.read(read, 1)
        os.close(read)
        self.assertEqual(len(ready), 1, "samepaged did not start")
        self.daemon_process = p
        return socket

    def wait_no_daemon(self):
        wait_until(lambda: not private_daemons(self.runtime), "the private daemon's end")

    def assertUsage(self, result, text, command=None):
        """Exit status 2, nothing on stdout, a message that contains the text, and where to get help."""
        status, out, err = result
        self.assertEqual((status, out), (2, ""), err)
        self.assertIn(text, err)
        self.assertIn(f"Try 'samepage help{' ' + command if command else ''}'.", err)

    def assertFailure(self, result, status, *texts):
        """This exit status, and one line on stderr with all the texts."""
        self.assertEqual(result[0], status, result[2])
        for text in texts:
            self.assertIn(text, result[2])
        self.assertEqual(result[2].count("\n"), 1, result[2])


def become_nobody():
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def has_userfaultfd_for_all():
    """Whether an ordinary user has it here; looked at, never changed."""
    try:
        with open("/proc/sys/vm/unprivileged_userfaultfd", encoding="ascii") as f:
            if f.read().strip() == "1":
                return True
    except FileNotFoundError:
        pass
    return os.path.exists("/dev/userfaultfd") and os.stat("/dev/userfaultfd").st_mode & 0o006 == 0o006


def become_subreaper():
    """For preexec_fn: prctl(PR_SET_CHILD_SUBREAPER), which the command inherits by exec."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
