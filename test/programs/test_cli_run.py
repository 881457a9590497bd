#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""`samepage run`: the command must not notice, and neither must who waits for it."""

import json
import os
import pty
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

import tap
from cli_helper import (BUILD, PRELOAD, SAMEPAGE, Case, become_subreaper, has_userfaultfd_for_all,
                        private_daemons, process_state, wait_until)

PYTHON = "/usr/bin/python3"
SUMMARY = re.compile(r"^samepage: saved [\d.]+ \w+ now, [\d.]+ \w+ at peak, [\d.]+ s CPU, [\d,]+ pages shared\n$")

# Three copies of the same random MiB, advised; then what the test wants, with them still there.
SHARERS = """
import mmap, os, sys, time
data = os.urandom(1 << 20) * 8
copies = [mmap.mmap(-1, len(data), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(3)]
for m in copies:
    m.madvise(mmap.MADV_MERGEABLE)
    m.write(data)
print("loaded", flush=True)
sys.stdin.readline()
print(all(m[:] == data for m in copies), flush=True)
"""


class Usage(Case):
    def test_no_command(self):
        for words in ((), ("--",), ("--summary",), ("--advised", "--verbose")):
            with self.subTest(words=words):
                self.assertUsage(self.samepage("run", *words), "no command to run", "run")

    def test_not_found(self):
        for name in ("no-such-program", "/no/such/program", "./no-such", "", "/etc/passwd/x"):
            for words in ((), ("--summary",)):
                with self.subTest(name=name, words=words):
                    self.assertFailure(self.samepage("run", *words, "--", name), 127,
                                       f"samepage: run: {name}: not found")
        self.assertEqual(os.listdir(self.runtime), [])

    def test_interpreter_not_found(self):
        """The file is there; to say that it is not would send its user looking at the wrong place."""
        path = f"{self.runtime}/script"
        with open(path, "w", encoding="ascii") as f:
            f.write("#!/no/such/interpreter\n")
        os.chmod(path, 0o755)
        for words in ((), ("--summary",)):
            self.assertFailure(self.samepage("run", *words, "--", path), 127, f"{path}: its interpreter", "not found")

    def test_not_executable(self):
        for name in ("/etc/passwd", "/", "./."):
            for words in ((), ("--summary",)):
                with self.subTest(name=name, words=words):
                    self.assertFailure(self.samepage("run", *words, "--", name), 126, f"{name}: not executable")
        self.assertEqual(os.listdir(self.runtime), [])

    def test_not_executable_in_path(self):
        open(f"{self.runtime}/tool", "w", encoding="ascii").close()
        self.set(PATH=self.runtime)
        self.assertFailure(self.samepage("run", "--", "tool"), 126, "tool: not executable")

    def test_no_permission(self):
        os.chmod(shutil.copy("/bin/true", f"{self.runtime}/tool"), 0o700)
        result = self.samepage_of_nobody("run", "--", f"{self.runtime}/tool")
        self.assertFailure(result, 126, "not executable: permission denied")

    def test_not_a_program(self):
        """Executable, but nothing the kernel can run: a truncated ELF file."""
        path = f"{self.runtime}/tool"
        with open(path, "wb") as f:
            f.write(b"\x7fELF\x02\x01\x01" + bytes(100))
        os.chmod(path, 0o755)
        for words in ((), ("--summary",)):
            self.assertEqual(self.samepage("run", *words, "--", path)[0],
                             subprocess.run(["/usr/bin/env", path], stderr=subprocess.DEVNULL,
                                            check=False).returncode)

    def test_finds_as_a_shell_does(self):
        first, second = f"{self.runtime}/1", f"{self.runtime}/2"
        os.mkdir(first)
        os.mkdir(second)
        open(f"{first}/tool", "w", encoding="ascii").close()  # not executable: passed over
        with open(f"{second}/tool", "w", encoding="ascii") as f:
            f.write("echo $0 $1\n")  # no "#!": /bin/sh runs it
        os.chmod(f"{second}/tool", 0o755)
        self.set(PATH=f"{first}:{second}:/bin")
        self.assertEqual(self.samepage("run", "tool", "x")[:2], (0, f"{second}/tool x\n"))
        self.set(PATH=f"{first}:")
        self.assertEqual(self.samepage("run", "tool", "x", cwd=second)[:2], (0, "./tool x\n"))

    def test_wrong_settings(self):
        for text, says in (("frob=1", "frob"), ("freeze_micros", "freeze_micros"), ("freeze_micros=x", "x"),
                           ("freeze_micros=0", "100000"), ("=1", ""), ("", ""), ("freeze_micros=150,", "")):
            with self.subTest(text=text):
                self.assertFailure(self.samepage("run", "--set", text, "--", "true"), 125, "--set: ", says)

    def test_malformed_environment(self):
        for text in ("frob=1", "nonsense", "freeze_micros=99999999999999999999", "\udcff", "=" * 5000):
            with self.subTest(text=text[:20]):
                self.set(SAMEPAGE_SET=text)
                self.assertFailure(self.samepage("run", "--", "true"), 125, "SAMEPAGE_SET in the environment: ")

    def test_empty_environment_variables(self):
        self.set(SAMEPAGE_SET="", SAMEPAGE_SOCKET="", LD_PRELOAD="")
        self.assertEqual(self.samepage("run", "--", "echo", "x"), (0, "x\n", ""))

    def test_options_end_at_the_command(self):
        self.assertEqual(self.samepage("run", "echo", "--summary", "--", "-x"), (0, "--summary -- -x\n", ""))


class Sockets(Case):
    def refused(self, path, *texts):
        self.assertFailure(self.samepage("run", "--socket", path, "--", "true"), 125, "cannot reach a daemon at",
                           path, *texts)
        self.set(SAMEPAGE_SOCKET=path)
        self.assertFailure(self.samepage("run", "--", "true"), 125, "SAMEPAGE_SOCKET", path, *texts)

    def test_missing(self):
        self.refused(f"{self.runtime}/none", "no such socket", "start 'samepaged --socket")

    def test_file_that_is_no_socket(self):
        self.refused("/etc/passwd", "no daemon listens there")

    def test_socket_nobody_listens_to(self):
        path = f"{self.runtime}/dead"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.bind(path)
        self.refused(path, "no daemon listens there")

    def test_stream_socket(self):
        path = f"{self.runtime}/stream"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
            s.bind(path)
            s.listen()
            self.refused(path, "not a samepaged")

    def test_too_long(self):
        self.refused("/" + "x" * 150, "too long")

    def test_empty(self):
        self.assertUsage(self.samepage("run", "--socket", "", "--", "true"), "needs a path", "run")

    def test_listener_that_speaks_nonsense(self):
        """It accepts, so only the library inside the command finds out; the command runs all the same."""
        path = f"{self.runtime}/nonsense"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.bind(path)
            s.listen(64)
            result = self.samepage("run", "--socket", path, "--", PYTHON, "-c", SHARERS, input="\n")
            self.assertEqual(result, (0, "loaded\nTrue\n", ""))

    def test_named_daemon_is_used(self):
        path = self.daemon()
        status, out, _ = self.samepage("run", "--socket", path, "--", "env")
        self.assertEqual(status, 0)
        self.assertIn(f"\nSAMEPAGE_SOCKET={path}\n", f"\n{out}")
        self.assertNotIn("SAMEPAGE_ALIVE", out)
        self.assertEqual(private_daemons(self.runtime), [self.daemon_process.pid])

    def test_relative_path_becomes_absolute(self):
        path = self.daemon()
        out = self.samepage("run", "--socket", "daemon/socket", "--", "env", cwd=self.runtime)[1]
        self.assertIn(f"\nSAMEPAGE_SOCKET={path}\n", f"\n{out}")

    def test_system_daemon_is_used(self):
        path = self.daemon(f"{self.runtime}/samepage/socket")
        self.assertIn(f"SAMEPAGE_SOCKET={path}\n", self.samepage("run", "--", "env")[1])

    def test_verbose(self):
        path = self.daemon()
        err = self.samepage("run", "--verbose", "--socket", path, "--", "true")[2]
        self.assertIn(f"samepage: run: using the daemon at {path}\n", err)


class Unnoticed(Case):
    """Status, signals, streams, arguments, environment, processes: as without us, in both forms."""

    forms = ((), ("--summary",))

    def run_python(self, form, code, *words, **options):
        return self.samepage("run", *form, "--", PYTHON, "-c", code, *words, **options)

    def check_err(self, form, err, rest=""):
        if form:
            *lines, last = err.splitlines(True)
            self.assertRegex(last, SUMMARY)
            self.assertEqual("".join(lines), rest)
        else:
            self.assertEqual(err, rest)

    def test_exit_status(self):
        for form in self.forms:
            for status in (0, 1, 2, 77, 125, 255):
                with self.subTest(form=form, status=status):
                    result = self.samepage("run", *form, "--", "sh", "-c", f"exit {status}")
                    self.assertEqual(result[0], status)
                    self.check_err(form, result[2])

    def test_killed_by_a_signal(self):
        for form in self.forms:
            for name in ("SIGKILL", "SIGSEGV", "SIGTERM", "SIGABRT", "SIGPIPE", "SIGUSR1", "SIGRTMIN"):
                with self.subTest(form=form, name=name):
                    number = getattr(signal, name)
                    result = self.samepage("run", *form, "--", "sh", "-c", f"kill -{int(number)} $$")
                    self.assertEqual(result[0], -number)
                    self.check_err(form, result[2])

    def test_a_real_fault(self):
        for form in self.forms:
            with self.subTest(form=form):
                self.assertEqual(self.run_python(form, "import ctypes; ctypes.string_at(0)",
                                                 cwd=self.runtime)[0], -signal.SIGSEGV)

    def test_streams(self):
        text = "".join(f"line {i}\n" for i in range(20000))
        for form in self.forms:
            with self.subTest(form=form):
                status, out, err = self.run_python(form, "import sys; d = sys.stdin.read(); sys.stdout.write(d);"
                                                   "sys.stderr.write(d[:14])", input=text)
                self.assertEqual((status, out), (0, text))
                self.check_err(form, err, text[:14])

    def test_end_of_output_comes_with_the_command(self):
        """A private daemon must not hold the pipe: cat sees the end while another process keeps it alive."""
        for form in self.forms:
            with self.subTest(form=form):
                out = self.samepage("run", *form, "--", "sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!")
                self.assertEqual(out[0], 0)
                os.kill(int(out[1]), signal.SIGKILL)

    def test_closed_streams(self):
        status = self.samepage("run", "--", "sh", "-c", "[ ! -e /proc/$$/fd/0 ] && [ ! -e /proc/$$/fd/1 ]",
                               preexec_fn=lambda: (os.close(0), os.close(1)))[0]
        self.assertEqual(status, 0)

    def test_arguments(self):
        words = ["", " ", "a b", "--", "-x", "*", "\n", "%s", "\udcff\udcfe", "x" * 100000]
        code = "import sys, os; sys.stdout.buffer.write(b'\\0'.join(map(os.fsencode, sys.argv[1:])))"
        for form in self.forms:
            with self.subTest(form=form):
                status, out, _ = self.run_python(form, code, *words)
                self.assertEqual((status, out), (0, "\0".join(words)))

    def test_name_of_the_program(self):
        code = "open('/proc/self/cmdline').read().split('\\0')[0]"
        self.set(PATH=f"{self.runtime}:/bin")
        os.symlink(PYTHON, f"{self.runtime}/mypython")
        for form in self.forms:
            self.assertEqual(self.samepage("run", *form, "mypython", "-c", f"print({code})")[1], "mypython\n")

    def test_environment(self):
        self.set(FOO="bar", EMPTY="", ODD="a=b\nc", XDG_RUNTIME_DIR=self.runtime)
        code = "import os, json; print(json.dumps(dict(os.environ)))"
        plain = json.loads(subprocess.run([PYTHON, "-c", code], env=self.environment, check=True,
                                          capture_output=True).stdout)
        for form in self.forms:
            with self.subTest(form=form):
                ours = json.loads(self.run_python(form, code)[1])
                added = {k: ours.pop(k) for k in list(ours) if k not in plain}
                self.assertEqual(ours, plain)
                preload = added.pop("LD_PRELOAD")
                self.assertEqual(preload.split(":")[0], os.path.realpath(PRELOAD))
                self.assertEqual(added.pop("G_SLICE", None), "always-malloc" if "mimalloc" in preload else None)
                directory = os.path.dirname(added["SAMEPAGE_SOCKET"])
                self.assertEqual(os.path.dirname(directory), self.runtime)
                self.assertEqual(added, {"SAMEPAGE_SOCKET": f"{directory}/socket",
                                         "SAMEPAGE_ALIVE": f"{directory}/alive", "SAMEPAGE_MERGE_ANY": "0"})

    def test_settings_in_the_environment(self):
        self.set(SAMEPAGE_SET="freeze_micros=99")
        out = self.samepage("run", "--set", "map_percent=50", "--set", "use_zero_pages=0", "--", "env")[1]
        self.assertIn("SAMEPAGE_SET=freeze_micros=99,map_percent=50,use_zero_pages=0\n", out)

    def test_preload_is_kept(self):
        libc = next(line.split()[-1] for line in open("/proc/self/maps", encoding="utf-8") if "libm.so" in line
                    or "libc.so" in line)
        self.set(LD_PRELOAD=libc)
        out = self.samepage("run", "--", "env")[1]
        self.assertRegex(out, rf"LD_PRELOAD={os.path.realpath(PRELOAD)}:{libc}[:\n]")

    def test_run_within_run(self):
        out = self.samepage("run", "--", SAMEPAGE, "run", "--", "env")[1]
        self.assertEqual(out.count("libsamepage-preload.so"), 1)
        self.assertEqual(out.count("SAMEPAGE_ALIVE="), 1)
        self.wait_no_daemon()

    def test_run_within_run_with_another_daemon(self):
        path = self.daemon()
        out = self.samepage("run", "--", SAMEPAGE, "run", "--socket", path, "--", "env")[1]
        self.assertIn(f"SAMEPAGE_SOCKET={path}\n", out)
        self.assertNotIn("SAMEPAGE_ALIVE", out)

    def test_same_process(self):
        p = self.popen("run", "--", "sh", "-c", "echo $$")
        self.assertEqual(p.communicate()[0], f"{p.pid}\n")

    def test_no_unknown_child(self):
        for form in self.forms:
            for subreaper in (None, become_subreaper):
                with self.subTest(form=form, subreaper=bool(subreaper)):
                    # The last command of a shell replaces it: "; true" keeps it, as ps's parent.
                    out = self.samepage("run", *form, "--", "sh", "-c", "ps -o args= --ppid $$; true",
                                        preexec_fn=subreaper)[1]
                    self.assertRegex(out, r"^ps -o args= --ppid \d+\n$")

    def test_waiting_for_any_child(self):
        code = "import os\ntry: os.wait()\nexcept ChildProcessError: print('none')"
        for form in self.forms:
            self.assertEqual(self.run_python(form, code)[1], "none\n")

    def test_descriptors(self):
        code = "import os; print(sorted(os.listdir('/proc/self/fd')))"
        plain = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True,
                               stdin=subprocess.DEVNULL).stdout
        for form in self.forms:
            self.assertEqual(self.run_python(form, code)[1], plain)

    def test_descriptors_are_passed_on(self):
        read, write = os.pipe()
        self.samepage("run", "--", "sh", "-c", f"echo through >&{write}", pass_fds=[write])
        os.close(write)
        self.assertEqual(os.read(read, 100), b"through\n")
        # The end of the file: nobody else, such as a daemon, has it open.
        self.assertEqual(os.read(read, 100), b"")
        os.close(read)

    def test_signal_dispositions(self):
        code = ("import re; s = open('/proc/self/status').read();"
                "print(re.findall(r'Sig(?:Blk|Ign):.*', s))")

        def odd():
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2, signal.SIGTERM])

        for before in (None, odd):
            plain = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True,
                                   preexec_fn=before).stdout
            for form in self.forms:
                with self.subTest(form=form, odd=bool(before)):
                    self.assertEqual(self.run_python(form, code, preexec_fn=before)[:2], (0, plain))

    def test_other_inherited_things(self):
        code = ("import os, resource; os.umask(m := os.umask(0)); print(m, os.getcwd(), os.getpriority(0, 0),"
                "os.getsid(0), os.getpgid(0), resource.getrlimit(resource.RLIMIT_NOFILE),"
                "resource.getrlimit(resource.RLIMIT_CORE))")

        def odd():
            os.umask(0o135)
            os.nice(3)
            resource.setrlimit(resource.RLIMIT_NOFILE, (333, 444))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        plain = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True, preexec_fn=odd,
                               cwd=self.runtime).stdout
        for form in self.forms:
            self.assertEqual(self.run_python(form, code, preexec_fn=odd, cwd=self.runtime)[1], plain)

    def test_static_program(self):
        source = f"{self.runtime}/static.c"
        with open(source, "w", encoding="ascii") as f:
            f.write("int main(void) { return 42; }\n")
        subprocess.run(["gcc", "-static", source, "-o", f"{self.runtime}/static"], check=True)
        self.assertFailure(self.samepage("run", "--", f"{self.runtime}/static"), 42,
                           "is statically linked: its memory cannot be merged")

    def test_script_of_a_static_interpreter_is_looked_through(self):
        path = f"{self.runtime}/script"
        with open(path, "w", encoding="ascii") as f:
            f.write("#!/bin/sh\nexit 43\n")
        os.chmod(path, 0o755)
        self.assertEqual(self.samepage("run", "--", path), (43, "", ""))

    @unittest.skipIf(has_userfaultfd_for_all(), "here every user has userfaultfd")
    def test_no_userfaultfd(self):
        os.chmod(self.runtime, 0o777)
        for form in self.forms:
            with self.subTest(form=form):
                status, out, err = self.samepage_of_nobody("run", *form, "--", "sh", "-c", "env; exit 5")
                self.assertEqual(status, 5)
                self.assertTrue(err.startswith("samepage: run: nothing will be merged: "), err)
                self.assertIn("samepage doctor", err)
                self.assertEqual(err.count("\n"), 2 if form else 1)
                self.assertNotIn("LD_PRELOAD", out)
        self.assertEqual(os.listdir(self.runtime), [])


class Signals(Case):
    """--summary: what is sent to us reaches the command."""

    CATCH = ("import signal, sys\n"
             "got = signal.sigwait\n"
             "names = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1,"
             " signal.SIGUSR2, signal.SIGWINCH]\n"
             "signal.pthread_sigmask(signal.SIG_BLOCK, names)\n"
             "print('ready', flush=True)\n"
             "for _ in range(len(names)): print(int(signal.sigwait(names)), flush=True)\n")

    def start(self, *words, **options):
        p = self.popen("run", "--summary", "--", *words, **options)
        self.assertEqual(p.stdout.readline(), "ready\n")
        return p

    def finish(self, p):
        out, err = p.communicate(timeout=60)
        self.assertRegex(err.splitlines(True)[-1], SUMMARY)
        return p.returncode, out

    def test_every_forwarded_signal(self):
        p = self.start(PYTHON, "-c", self.CATCH)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1,
                       signal.SIGUSR2, signal.SIGWINCH):
            p.send_signal(number)
            self.assertEqual(p.stdout.readline(), f"{int(number)}\n")
        self.assertEqual(self.finish(p), (0, ""))

    def test_ends_by_the_same_signal(self):
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)

        def as_from_a_terminal():
            for number in numbers:  # nohup(1) and a shell's "&" have some of them ignored
                signal.signal(number, signal.SIG_DFL)

        for number in numbers:
            with self.subTest(number=number):
                p = self.start("sh", "-c", "echo ready; exec sleep 1000", cwd=self.runtime,
                               preexec_fn=as_from_a_terminal)
                p.send_signal(number)
                self.assertEqual(self.finish(p), (-number, ""))

    def test_ignored_signals_stay_ignored(self):
        p = self.start("sh", "-c", "echo ready; read x; echo $x", stdin=subprocess.PIPE,
                       preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
        p.send_signal(signal.SIGHUP)
        p.stdin.write("on\n")
        p.stdin.flush()
        self.assertEqual(self.finish(p), (0, "on\n"))

    def child_of(self, pid):
        out = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True,
                             check=False).stdout.split()
        return int(out[0])

    def test_stop_and_continue(self):
        # A group of its own below ours: the kernel drops SIGTSTP where a group's parents are of another session.
        p = self.start("sh", "-c", "echo ready; exec sleep 1000", preexec_fn=os.setpgrp)
        child = self.child_of(p.pid)
        for number in (signal.SIGTSTP, signal.SIGTSTP):
            p.send_signal(number)
            wait_until(lambda: process_state(child) == "T", "the command stops")
            wait_until(lambda: process_state(p.pid) == "T", "samepage stops with it")
            p.send_signal(signal.SIGCONT)
            wait_until(lambda: process_state(child) == "S", "the command goes on")
            wait_until(lambda: process_state(p.pid) == "S", "samepage goes on")
        os.kill(child, signal.SIGSTOP)
        wait_until(lambda: process_state(p.pid) == "T", "samepage stops with it")
        p.send_signal(signal.SIGCONT)
        wait_until(lambda: process_state(child) == "S", "the command goes on")
        p.send_signal(signal.SIGTERM)
        self.assertEqual(self.finish(p), (-signal.SIGTERM, ""))

    def test_terminal_interrupt_comes_once(self):
        """^C goes to the whole foreground group: the command must not get it a second time from us."""
        code = ("import signal, time\n"
                "got = []\n"
                "signal.signal(signal.SIGINT, lambda *a: got.append(1))\n"
                "print('ready', flush=True)\n"
                "while not got: signal.pause()\n"
                "time.sleep(0.5)\n"
                "print('got', len(got), flush=True)\n")
        pid, master = pty.fork()
        if not pid:
            os.execve(SAMEPAGE, [SAMEPAGE, "run", "--summary", "--", PYTHON, "-c", code], self.environment)
        out = b""
        while b"ready" not in out:
            out += os.read(master, 1000)
        os.write(master, b"\x03")
        while b"samepage: saved" not in out:
            out += os.read(master, 1000)
        self.assertIn(b"got 1\r\n", out)
        self.assertEqual(os.waitpid(pid, 0)[1], 0)
        os.close(master)


class Sharing(Case):
    """Does it do what it is for? And does it end?"""

    def saved(self, path=None):
        out = self.samepage("status", "--json", *(("--socket", path) if path else ()))[1]
        daemons = json.loads(out)["daemons"] if out else []
        mine = [d for d in daemons if d["socket"].startswith(self.runtime)]
        return sum(domain["saved_bytes"] for d in mine for domain in d["domains"])

    def loaded(self, *words, script=SHARERS):
        """A command that waits for a line, with its memory filled."""
        p = self.popen("run", *words, "--", PYTHON, "-c", script, stdin=subprocess.PIPE)
        self.assertEqual(p.stdout.readline(), "loaded\n")
        return p

    def sharers(self, *words, path=None):
        """The same with that memory shared, by the daemon at `path` or a private one."""
        p = self.loaded(*words, *(("--socket", path) if path else ()))
        wait_until(lambda: self.saved(path) >= 23 << 20, "23 of 24 MiB saved")
        return p

    def end(self, p, path):
        """Nothing is saved any more by the daemon, which stays."""
        self.assertEqual(p.communicate("\n")[0], "True\n")
        wait_until(lambda: not self.saved(path), "nothing is saved any more")

    def test_private_daemon(self):
        p = self.sharers()
        out, err = p.communicate("\n")
        self.assertEqual((p.returncode, out, err), (0, "True\n", ""))
        self.wait_no_daemon()
        self.assertEqual(os.listdir(self.runtime), [])

    def test_named_daemon(self):
        path = self.daemon()
        self.end(self.sharers(path=path), path)

    def test_status_shows_the_client(self):
        path = self.daemon()
        p = self.sharers("--advised", path=path)

        def reported():
            out = self.samepage("status", "--json", "--socket", path)[1]
            domain, = json.loads(out)["daemons"][0]["domains"]
            # The domain's own figures are ahead of those that a client reports now and then.
            all_there = domain["clients"][0]["counters"]["registered_bytes"] == 24 << 20
            return domain if all_there and domain["freeze"]["count"] else None

        domain = wait_until(reported, "a report of 24 MiB and of freezes")
        client, = domain["clients"]
        self.assertEqual((domain["uid"], client["pid"], client["name"], client["state"]),
                         (os.getuid(), p.pid, "python3", "running"))
        self.assertGreaterEqual(domain["counters"]["pages_sharing"] * 4096, 23 << 20)
        self.assertLessEqual(domain["freeze"]["p50_ns"], domain["freeze"]["p99_ns"])
        self.assertLessEqual(domain["freeze"]["p99_ns"], domain["freeze"]["max_ns"])
        # What only the index knows is not said of a client, as 0 or otherwise.
        self.assertEqual(set(domain["counters"]) - set(client["counters"]),
                         {"pages_shared", "pages_sharing", "pages_published", "pages_punched", "pages_deferred",
                          "exposure_bytes", "index_bytes", "pages_full", "stable_node_chains", "stable_node_dups"})
        text = self.samepage("status", "--socket", path)[1]
        for name in domain["counters"]:
            self.assertIn(f"\n  {name} ", text)
        self.assertRegex(text, rf"\n +{p.pid} python3 ")
        self.assertNotRegex(text, r"\bH\d")

    def test_summary(self):
        p = self.sharers("--summary")
        out, err = p.communicate("\n")
        self.assertEqual((p.returncode, out), (0, "True\n"))
        found = re.fullmatch(r"samepage: saved .* now, ([\d.]+) MiB at peak, .* s CPU, [\d,]+ pages shared\n", err)
        self.assertTrue(found, err)
        self.assertGreaterEqual(float(found.group(1)), 23)

    def test_summary_of_a_daemon_with_a_past(self):
        """The peak is that of the command's time, not the highest that the daemon ever saw."""
        path = self.daemon()
        self.end(self.sharers(path=path), path)
        err = self.samepage("run", "--summary", "--socket", path, "--", "true")[2]
        self.assertTrue(err.startswith("samepage: saved 0 bytes now, 0 bytes at peak, "), err)

    def test_settings_reach_the_command(self):
        p = self.loaded("--set", "worker_start_kbytes=1048576")
        # So high a threshold means that no worker starts: no client ever connects.
        out = self.samepage("status", "--json")[1]
        mine = [d for d in json.loads(out)["daemons"] if d["socket"].startswith(self.runtime)]
        self.assertEqual([d["domains"] for d in mine], [[]])
        self.assertEqual(p.communicate("\n")[0], "True\n")

    def test_children_share_and_keep_the_daemon(self):
        code = (f"import subprocess, sys\n"
                f"kids = [subprocess.Popen([{PYTHON!r}, '-c', {SHARERS!r}], stdin=subprocess.PIPE,"
                f" stdout=subprocess.PIPE, text=True) for _ in range(2)]\n"
                f"for k in kids: k.stdout.readline()\n"
                f"print('loaded', flush=True)\n"
                f"sys.stdin.readline()\n"
                f"print([k.communicate('\\n')[0] for k in kids], flush=True)\n")
        p = self.loaded(script=code)
        wait_until(lambda: self.saved() >= 46 << 20, "46 of 48 MiB saved")
        self.assertEqual(p.communicate("\n")[0], "['True\\n', 'True\\n']\n")
        self.wait_no_daemon()

    def test_daemon_stays_for_a_process_left_behind(self):
        for form in ((), ("--summary",)):
            with self.subTest(form=form):
                out = self.samepage("run", *form, "--", "sh", "-c",
                                    "setsid sleep 1000 >/dev/null 2>&1 </dev/null & echo $!")[1]
                # That it looked, and stayed, cannot be seen from outside: it looks five times a second.
                time.sleep(1)
                self.assertEqual(len(private_daemons(self.runtime)), 1)
                os.kill(int(out), signal.SIGKILL)
                self.wait_no_daemon()
                self.assertEqual(os.listdir(self.runtime), [])

    def test_daemon_ends_after_kill(self):
        p = self.popen("run", "--", "sleep", "1000")
        wait_until(lambda: private_daemons(self.runtime), "the daemon's start")
        wait_until(lambda: "sleep" in open(f"/proc/{p.pid}/comm", encoding="ascii").read(), "the command's start")
        p.kill()
        p.wait()
        self.wait_no_daemon()
        self.assertEqual(os.listdir(self.runtime), [])

    def test_killed_daemon_does_not_hurt(self):
        p = self.sharers()
        daemon, = private_daemons(self.runtime)
        os.kill(daemon, signal.SIGKILL)
        wait_until(lambda: not process_state(daemon), "the daemon's end")
        self.assertEqual(p.communicate("\n"), ("True\n", ""))
        self.assertEqual(p.returncode, 0)


class Installed(Case):
    """`make install`: the library is found beside the programs, wherever the whole is moved."""

    def setUp(self):
        super().setUp()
        self.destination = tempfile.mkdtemp(prefix="sp-install-")
        self.addCleanup(shutil.rmtree, self.destination, True)
        subprocess.run(["meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir",
                        f"{self.destination}/first"], check=True, stdout=subprocess.DEVNULL)

    def test_moved_installation(self):
        os.rename(f"{self.destination}/first", f"{self.destination}/second")
        found = subprocess.run(["find", self.destination, "-path", "*/bin/samepage"], check=True,
                               capture_output=True, text=True).stdout.split()
        self.assertEqual(len(found), 1)
        p = subprocess.run([found[0], "run", "--", "env"], env=self.environment, capture_output=True, text=True,
                           check=False)
        self.assertEqual((p.returncode, p.stderr), (0, ""))
        self.assertRegex(p.stdout, rf"LD_PRELOAD={self.destination}/second/\S+/samepage/libsamepage-preload\.so[:\n]")
        self.wait_no_daemon()

    def test_without_the_library(self):
        os.mkdir(f"{self.destination}/bin")
        for name in ("samepage", "samepaged"):
            shutil.copy(f"{BUILD}/{name}", f"{self.destination}/bin/{name}")
        p = subprocess.run([f"{self.destination}/bin/samepage", "run", "--", "true"], env=self.environment,
                           capture_output=True, text=True, check=False)
        if p.returncode == 0:
            self.skipTest("samepage is installed on this machine: its library is used")
        self.assertEqual(p.returncode, 125)
        self.assertIn("is not beside this program: reinstall samepage", p.stderr)

    def test_path_the_linker_cannot_take(self):
        odd = f"{self.destination}/a b"
        os.mkdir(odd)
        for name in ("samepage", "samepaged"):
            shutil.copy(f"{BUILD}/{name}", f"{odd}/{name}")
        shutil.copy(PRELOAD, f"{odd}/libsamepage-preload.so")
        p = subprocess.run([f"{odd}/samepage", "run", "--", "true"], env=self.environment, capture_output=True,
                           text=True, check=False)
        self.assertEqual(p.returncode, 125)
        self.assertIn("a space or a colon", p.stderr)


if __name__ == "__main__":
    tap.main(sys.argv[1:])
