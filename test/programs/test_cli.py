#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The command line itself: help, wrong input to every command, status and doctor."""

import json
import os
import pty
import socket
import stat
import subprocess
import threading
import unittest

import tap
from cli_helper import SAMEPAGED, Case, has_userfaultfd_for_all, wait_until

COMMANDS = ("run", "status", "get", "set", "wait", "unmerge", "estimate", "doctor", "bench", "help", "version")


class Frame(Case):
    def test_no_command(self):
        self.assertUsage(self.samepage(), "no command given")

    def test_unknown_command_with_suggestion(self):
        self.assertUsage(self.samepage("statsu"), "unknown command 'statsu'; did you mean 'status'?")

    def test_unknown_command_without_suggestion(self):
        result = self.samepage("frobnicate")
        self.assertUsage(result, "unknown command 'frobnicate'")
        self.assertNotIn("did you mean", result[2])

    def test_strange_commands(self):
        for word in ("", "-", "--", "--frob", "x" * 5000, "\udcff\udcfe", "%s%n"):
            with self.subTest(word=word[:20]):
                self.assertEqual(self.samepage(word)[0], 2)

    def test_unknown_option_of_every_command(self):
        for command in COMMANDS:
            with self.subTest(command=command):
                self.assertUsage(self.samepage(command, "--frobnicate"), "unknown option '--frobnicate'", command)
                self.assertUsage(self.samepage(command, "-Z"), "unknown option '-Z'", command)

    def test_option_with_suggestion(self):
        self.assertUsage(self.samepage("status", "--jsno"), "unknown option '--jsno'; did you mean '--json'?",
                         "status")

    def test_option_without_its_argument(self):
        self.assertUsage(self.samepage("status", "--socket"), "option '--socket' needs an argument", "status")
        self.assertUsage(self.samepage("run", "--set"), "option '--set' needs an argument", "run")

    def test_option_with_an_argument_too_many(self):
        self.assertUsage(self.samepage("status", "--json=yes"), "option '--json' takes no argument", "status")

    def test_words_too_many(self):
        for words in (("status", "x"), ("doctor", "x"), ("version", "x"), ("help", "run", "x")):
            with self.subTest(words=words):
                self.assertEqual(self.samepage(*words)[0], 2)

    def test_version(self):
        for words in (("--version",), ("-V",), ("version",)):
            with self.subTest(words=words):
                status, out, err = self.samepage(*words)
                self.assertEqual((status, err), (0, ""))
                self.assertRegex(out, r"^samepage \d+\.\d+\.\d+\n$")

    def test_help(self):
        for words in (("--help",), ("-h",), ("help",)):
            with self.subTest(words=words):
                status, out, err = self.samepage(*words)
                self.assertEqual((status, err), (0, ""))
                for command in COMMANDS:
                    self.assertIn(f"\n  {command} ", out)

    def test_help_of_every_command(self):
        for command in COMMANDS:
            with self.subTest(command=command):
                by_help = self.samepage("help", command)
                self.assertEqual(by_help[0], 0)
                self.assertIn(f"Usage: samepage {command}", by_help[1])
                self.assertEqual(self.samepage(command, "--help"), by_help)

    def test_help_lists_every_setting(self):
        out = self.samepage("help", "run")[1]
        for name in ("sleep_millisecs", "freeze_micros", "map_percent", "use_zero_pages"):
            self.assertIn(f"\n  {name}=", out)

    def test_help_has_no_numbers_of_hazards(self):
        """H1 to H25 are for who reads the source."""
        self.assertNotRegex(self.samepage("help", "run")[1], r"\bH\d")

    def test_help_of_unknown_command(self):
        self.assertUsage(self.samepage("help", "rnu"), "unknown command 'rnu'; did you mean 'run'?")

    def test_full_disk(self):
        self.daemon(f"{self.runtime}/samepage/socket")
        for words in (("help",), ("--version",), ("help", "run"), ("status",), ("status", "--json"), ("doctor",),
                      ("doctor", "--json")):
            with self.subTest(words=words), open("/dev/full", "w", encoding="ascii") as full:
                status, _, err = self.samepage(*words, stdout=full)
                self.assertEqual(status, 1)
                self.assertIn("cannot write to standard output: No space left on device", err)

    def test_closed_output(self):
        status, _, err = self.samepage("help", preexec_fn=lambda: os.close(1))
        self.assertEqual(status, 1)
        self.assertIn("cannot write to standard output", err)


class Status(Case):
    def test_no_daemon(self):
        # Daemons of others who test here at the same time are found by their well-known places only.
        if os.path.exists("/run/samepage/socket"):
            self.skipTest("a daemon for everybody runs on this machine")
        status, out, err = self.samepage_of_nobody("status")
        self.assertEqual((status, out), (1, ""))
        self.assertIn("no daemon is running", err)
        self.assertIn("start samepaged", err)

    def test_no_daemon_json(self):
        status, out, _ = self.samepage("status", "--json", "--socket", f"{self.runtime}/none")
        self.assertEqual((status, out), (1, ""))

    def test_missing_socket(self):
        path = f"{self.runtime}/none"
        self.assertFailure(self.samepage("status", "--socket", path), 1, path, "there is no such socket",
                           "start 'samepaged")

    def test_empty_socket_path(self):
        self.assertUsage(self.samepage("status", "--socket", ""), "needs a path", "status")

    def test_file_that_is_no_socket(self):
        path = f"{self.runtime}/file"
        open(path, "w", encoding="ascii").close()
        self.assertFailure(self.samepage("status", "--socket", path), 1, path, "no daemon listens there")

    def test_socket_nobody_listens_to(self):
        path = f"{self.runtime}/dead"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.bind(path)
        self.assertFailure(self.samepage("status", "--socket", path), 1, path, "no daemon listens there")

    def test_stream_socket(self):
        path = f"{self.runtime}/stream"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
            s.bind(path)
            s.listen()
            self.assertFailure(self.samepage("status", "--socket", path), 1, path, "not a samepaged")

    def test_too_long_a_path(self):
        for length in (108, 4000):
            self.assertFailure(self.samepage("status", "--socket", "/" + "x" * length), 1, "too long")

    def test_another_users_socket(self):
        path = self.daemon()
        result = self.samepage_of_nobody("status", "--socket", path)
        if result[0] == 0:  # root's daemon serves everybody: nobody's own domain is empty
            self.assertIn("no domain yet", result[1])
        os.chmod(path, 0o600)
        self.assertFailure(self.samepage_of_nobody("status", "--socket", path), 1, "permission denied")

    def serve(self, answer):
        """A listener that is no daemon: calls answer(connection) for each who connects."""
        path = f"{self.runtime}/nonsense"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(path)
        listener.listen()
        self.addCleanup(listener.close)
        kept = []
        self.addCleanup(lambda: [c.close() for c in kept])

        def loop():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                kept.append(connection)
                try:
                    answer(connection)
                except OSError:
                    pass

        threading.Thread(target=loop, daemon=True).start()
        return path

    def test_listener_that_speaks_nonsense(self):
        path = self.serve(lambda c: c.send(b"HTTP/1.0 400 Bad Request\r\n\r\n" * 20))
        self.assertFailure(self.samepage("status", "--socket", path), 1, "not a samepaged of this version")

    def test_listener_that_sends_garbage_of_all_sizes(self):
        sizes = iter(range(1, 400, 7))
        path = self.serve(lambda c: c.send(os.urandom(next(sizes))))
        for _ in range(20):
            self.assertFailure(self.samepage("status", "--socket", path), 1, path)

    def test_listener_that_hangs_up(self):
        path = self.serve(lambda c: c.close())
        self.assertFailure(self.samepage("status", "--socket", path), 1, "no daemon listens there")

    def test_listener_that_says_nothing(self):
        path = self.serve(lambda c: None)
        self.assertFailure(self.samepage("status", "--socket", path), 1, "no answer in time")

    def test_text(self):
        path = self.daemon()
        status, out, err = self.samepage("status", "--socket", path)
        self.assertEqual((status, err), (0, ""))
        self.assertTrue(out.startswith(f"samepaged at {path}: process {self.daemon_process.pid}, up "), out)
        self.assertNotIn("\033", out)

    def test_json(self):
        path = self.daemon()
        status, out, err = self.samepage("status", "--json", "--socket", path)
        self.assertEqual((status, err), (0, ""))
        daemon, = json.loads(out)["daemons"]
        self.assertEqual((daemon["socket"], daemon["pid"], daemon["private"]),
                         (path, self.daemon_process.pid, False))
        for key in ("cpu_ns", "rss_bytes", "uptime_ns"):
            self.assertGreater(daemon[key], 0)

    def test_socket_from_the_environment(self):
        path = self.daemon()
        self.set(SAMEPAGE_SOCKET=path)
        self.assertIn(path, self.samepage("status")[1])
        self.assertEqual(self.samepage("status", "--socket", f"{self.runtime}/none")[0], 1)
        self.set(SAMEPAGE_SOCKET=f"{self.runtime}/none")
        self.assertEqual(self.samepage("status")[0], 1)

    def test_finds_the_system_daemon(self):
        path = self.daemon(f"{self.runtime}/samepage/socket")
        status, out, _ = self.samepage("status", "--json")
        self.assertEqual(status, 0)
        self.assertIn(path, [d["socket"] for d in json.loads(out)["daemons"]])

    def test_finds_private_daemons(self):
        runs = [self.popen("run", "--", "sleep", "1000") for _ in range(2)]

        def both():
            out = self.samepage("status", "--json")[1]
            daemons = json.loads(out)["daemons"] if out else []
            mine = [d for d in daemons if d["socket"].startswith(self.runtime)]
            return mine if len(mine) == 2 else None

        for daemon in wait_until(both, "two private daemons"):
            self.assertTrue(daemon["private"])
        self.assertIn("private samepaged at ", self.samepage("status")[1])
        for p in runs:
            p.kill()
        self.wait_no_daemon()


class Doctor(Case):
    def test_this_machine_is_fit(self):
        """The tests of this project are meant for machines on which everything is there."""
        status, out, err = self.samepage("doctor")
        self.assertEqual((status, err), (0, ""), out)
        self.assertIn("All that is needed is here.", out)
        self.assertNotIn("\033", out)

    def test_json(self):
        status, out, _ = self.samepage("doctor", "--json")
        found = json.loads(out)
        self.assertEqual(status, 0)
        self.assertIs(found["ready"], True)
        names = [c["name"] for c in found["checks"]]
        for name in ("kernel", "userfaultfd", "UFFDIO_MOVE", "WP_ASYNC", "PAGEMAP_SCAN", "memfd", "swap", "memory pressure",
                     "system-call filter", "mappings", "huge pages", "KSM", "files", "daemon"):
            self.assertIn(name, names)
        self.assertEqual({c["level"] for c in found["checks"]} - {"ok", "warn"}, set())

    @unittest.skipIf(has_userfaultfd_for_all(), "here every user has userfaultfd")
    def test_no_userfaultfd(self):
        status, out, _ = self.samepage_of_nobody("doctor", "--json")
        found = {c["name"]: c for c in json.loads(out)["checks"]}
        self.assertEqual(status, 1)
        self.assertEqual(found["userfaultfd"]["level"], "missing")
        self.assertIn("samepaged as root", found["userfaultfd"]["advice"])
        status, out, _ = self.samepage_of_nobody("doctor")
        self.assertEqual(status, 1)
        self.assertIn("1 of what is needed is missing.", out)

    @unittest.skipIf(has_userfaultfd_for_all(), "here every user has userfaultfd")
    def test_userfaultfd_by_the_daemon(self):
        self.daemon(f"{self.runtime}/samepage/socket")
        status, out, _ = self.samepage_of_nobody("doctor")
        self.assertEqual(status, 0, out)
        self.assertIn("handed out by the daemon", out)

    def test_changes_nothing(self):
        def settings():
            found = {}
            for path in ("/sys/kernel/mm/ksm/run", "/proc/sys/vm/max_map_count",
                         "/sys/kernel/mm/transparent_hugepage/enabled", "/proc/sys/vm/unprivileged_userfaultfd"):
                if os.path.exists(path):
                    with open(path, encoding="ascii") as f:
                        found[path] = f.read()
            found["device"] = os.path.exists("/dev/userfaultfd") and stat.S_IMODE(
                os.stat("/dev/userfaultfd").st_mode)
            return found

        before = settings()
        self.samepage("doctor")
        self.assertEqual(settings(), before)
        self.assertEqual(os.listdir(self.runtime), [])

    def on_terminal(self, **variables):
        master, slave = pty.openpty()
        self.set(TERM="xterm", **variables)
        p = self.popen("doctor", stdout=slave)
        os.close(slave)
        out = b""
        while True:
            try:
                part = os.read(master, 65536)
            except OSError:  # EIO: the other end has been closed
                break
            if not part:
                break
            out += part
        os.close(master)
        p.wait()
        return out

    def test_colours_on_a_terminal_only(self):
        self.assertIn(b"\033[32mok", self.on_terminal())
        self.assertNotIn(b"\033", self.on_terminal(NO_COLOR="1"))


class Daemon(Case):
    """The options of samepaged, as a user may mistype them."""

    def test_pressure_file_that_is_none(self):
        """What never answers is not waited for."""
        os.mkfifo(f"{self.runtime}/fifo")
        for path, why in ((f"{self.runtime}/fifo", "does not tell about pressure"), ("/dev/zero", "does not tell"),
                          ("/proc/version", "does not tell"), (f"{self.runtime}/none", "No such file")):
            words = ("--socket", f"{self.runtime}/d/socket", "--pressure-file", path)
            status, out, err = self.samepage(*words, program=SAMEPAGED)
            self.assertEqual((status, out), (1, ""), err)
            self.assertIn(f"--pressure-file {path}: ", err)
            self.assertIn(why, err)

    def test_help_and_version(self):
        for words, start in ((["--help"], "Usage: samepaged "), (["-h"], "Usage: samepaged "),
                             (["--version"], "samepaged 0."), (["-V"], "samepaged 0.")):
            p = subprocess.run([SAMEPAGED, *words], env=self.environment, capture_output=True, text=True, check=False)
            self.assertEqual((p.returncode, p.stderr), (0, ""))
            self.assertTrue(p.stdout.startswith(start), p.stdout)

    def test_full_disk(self):
        for word in ("--help", "--version"):
            with open("/dev/full", "w", encoding="ascii") as full:
                p = subprocess.run([SAMEPAGED, word], env=self.environment, stdout=full, stderr=subprocess.PIPE,
                                   text=True, check=False)
            self.assertEqual(p.returncode, 1)
            self.assertIn("cannot write to standard output: No space left on device", p.stderr)

    def test_wrong_options(self):
        for words in (["--frob"], ["x"], ["--set", "nonsense"], ["--set", "frob=1"], ["--owner-pid", "abc"],
                      ["--socket", ""], ["--socket", "/" + "x" * 200], ["--alive", "/tmp/x"]):
            with self.subTest(words=words[0]):
                p = subprocess.run([SAMEPAGED, *words], env=self.environment, capture_output=True, text=True,
                                   check=False)
                self.assertEqual((p.returncode, p.stdout), (2, ""), p.stderr)
                self.assertIn("Try 'samepaged --help'", p.stderr)


if __name__ == "__main__":
    tap.main()
