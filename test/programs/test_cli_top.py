#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""samepage top: its figures on programs that share, its screen on a terminal, and that the terminal is put back."""

import json
import os
import signal

import tap
from cli_helper import SAMEPAGE, wait_until
from terminal import Terminal
from test_cli_control import Control

MIB = 1 << 20
PAGE = 4096
PYTHON = "/usr/bin/python3"

# Maps memory with content by number; told "write", it goes on writing a page after the other, told "rest" it rests.
CLIENT = """
import mmap, random, select, sys
name, mib, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
open("/proc/self/comm", "w").write(name)
m = mmap.mmap(-1, mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
m.madvise(mmap.MADV_MERGEABLE)
m.write(random.Random(seed).randbytes(mib << 20))
print("mapped", flush=True)
writing, at = False, 0
while True:
    if select.select([sys.stdin], [], [], 0.005 if writing else None)[0]:
        line = sys.stdin.readline()
        if not line:
            break
        writing = line == "write\\n"
    if writing:
        m[at] = m[at] ^ 1
        at = (at + 4096) % (mib << 20)
"""


class Top(Control):
    def setUp(self):
        super().setUp()
        self.set(LC_ALL="C")

    def program(self, name, mib=4, seed=1):
        p = self.popen("run", "--advised", "--socket", self.socket, "--", PYTHON, "-c", CLIENT, name, str(mib),
                       str(seed), stdin=-1)
        self.assertEqual(p.stdout.readline(), "mapped\n")
        return p

    @staticmethod
    def say(p, word):
        p.stdin.write(word + "\n")
        p.stdin.flush()

    def sharing(self):
        """Two that share 4 MiB, and one that has 1 MiB of them, too."""
        programs = [self.program("twin-a"), self.program("twin-b"), self.program("little", mib=1, seed=2)]
        self.joined(*programs)
        self.wait_settled()
        return programs

    def top(self, *words, **options):
        t = Terminal([SAMEPAGE, "top", "--socket", self.socket, "--delay", "0.1", *words], self.environment, **options)
        self.addCleanup(t.close)
        return t

    def once(self, *words):
        status, out, err = self.run_on("top", "--once", "--delay", "0.6", *words)
        self.assertEqual((status, err), (0, ""))
        return out

    def json(self, *words):
        return json.loads(self.once("--json", *words))


def names(lines):
    """Of the clients in these lines, in their order."""
    for i, line in enumerate(lines):
        if line.startswith("    PID NAME"):
            return [words[1] for words in map(str.split, lines[i + 1:]) if len(words) > 8 and words[0].isdigit()]
    return []


class Once(Top):
    def test_figures(self):
        self.sharing()
        found = wait_until(lambda: self.settled_json(), "rates are known")
        (domain,) = found["domains"]
        clients = {c["name"]: c for c in domain["clients"]}
        self.assertEqual(domain["uid"], os.geteuid())
        self.assertEqual(domain["programs"], 3)
        # Single pages may be left out: refused, or written by the program.
        few = 16 * PAGE
        for name, shared in (("twin-a", 4 * MIB), ("twin-b", 4 * MIB), ("little", 0)):
            self.assertAlmostEqual(clients[name]["shared_bytes"], shared, delta=few)
            self.assertAlmostEqual(clients[name]["saved_bytes"], shared / 2, delta=few)
        self.assertEqual(domain["shared_bytes"], sum(c["shared_bytes"] for c in clients.values()))
        self.assertAlmostEqual(domain["saved_bytes"], 4 * MIB, delta=few)
        self.assertAlmostEqual(domain["saved_bytes"], sum(c["saved_bytes"] for c in clients.values()),
                               delta=3 * PAGE)
        self.assertEqual(found["saved_bytes"], domain["saved_bytes"])
        self.assertEqual({c["resident_bytes"] >= m * MIB for c, m in ((clients["twin-a"], 4), (clients["little"], 1))},
                         {True})
        self.assertEqual(domain["resident_bytes"], sum(c["resident_bytes"] for c in clients.values()))
        self.assertGreater(clients["twin-a"]["freeze"]["p99_ns"], 0)
        self.assertGreaterEqual(clients["twin-a"]["freeze"]["max_ns"], clients["twin-a"]["freeze"]["p99_ns"])
        self.assertEqual({c["broken_per_second"] for c in clients.values()}, {0})
        self.assertEqual(domain["broken_per_second"], 0)
        self.assertEqual(found["socket"], self.socket)
        self.assertEqual(found["pid"], self.daemon_process.pid)
        self.assertGreaterEqual(found["cpu_percent"], 0)

    def settled_json(self):
        found = self.json()
        rates = [c["broken_per_second"] for d in found["domains"] for c in d["clients"]]
        return found if len(rates) == 3 and all(r == 0 for r in rates) else None

    def test_what_is_written_breaks(self):
        a, b, _ = self.sharing()
        self.say(a, "write")

        def broken():
            (domain,) = self.json()["domains"]
            rates = {c["name"]: c["broken_per_second"] for c in domain["clients"]}
            return domain["broken_per_second"] == rates["twin-a"] and rates["twin-a"] and rates["twin-b"] == 0
        wait_until(broken, "twin-a breaks pages, and twin-b none")

    def test_text_and_order(self):
        self.sharing()
        lines = self.once().splitlines()
        self.assertEqual(lines[0], self.socket)
        self.assertRegex(lines[1], rf"^samepaged {self.daemon_process.pid}: up .* % CPU, .* resident; (4.0|3.9) MiB "
                         "saved$")
        self.assertRegex(lines[3], "^CLIENTS DOMAIN OF +RESIDENT +SHARED +SAVED +BROKEN/S +FRZ-P99 +FRZ-MAX +CPU%$")
        self.assertRegex(lines[4], "^      3 root +[0-9.]+M +(8.0|7.9)M +(4.0|3.9)M ")
        self.assertRegex(lines[6], "^    PID NAME +RESIDENT +SHARED +SAVED +BROKEN/S +FRZ-P99 +FRZ-MAX +CPU% +USER"
                         " +STATE$")
        self.assertEqual(len(lines), 10)
        for line in lines[7:]:
            self.assertRegex(line, "^ *[0-9]+ (twin-[ab]|little) .* root +running$")
        self.assertEqual(names(lines)[2], "little")
        self.assertEqual(names(self.once("--sort", "name").splitlines()), ["little", "twin-a", "twin-b"])
        self.assertEqual(names(self.once("--sort", "pid").splitlines()), ["twin-a", "twin-b", "little"])

    def test_no_program(self):
        self.assertIn("\nno domain yet: no program has connected\n", self.once())
        self.assertEqual(self.json()["domains"], [])

    def test_user(self):
        self.sharing()
        self.assertEqual(len(self.json("--user", "root")["domains"]), 1)
        self.assertFailure(self.run_on("top", "--once", "--user", "12345"), 1, "no domain of user '12345'")


class WrongInput(Top):
    def test_words(self):
        for words, text in (
                (("x",), "unexpected argument 'x'"),
                (("--json",), "--json prints, so it goes with --once only"),
                (("--once", "--sort", "rezident"), "no column 'rezident'; did you mean 'resident'?"),
                (("--once", "--sort", ""), "no column ''"),
                (("--once", "--delay", "0"), "'0' is no number of seconds (0.1 to 3600)"),
                (("--once", "--delay", "x"), "'x' is no number of seconds (0.1 to 3600)"),
                (("--once", "--delay", "4000"), "(0.1 to 3600)"),
                (("--once", "--user", "no such user"), "no user 'no such user'"),
                (("--twice",), "unknown option '--twice'")):
            with self.subTest(words=words):
                self.assertUsage(self.run_on("top", *words), text, "top")

    def test_no_daemon(self):
        self.assertFailure(self.samepage("top", "--once", "--socket", f"{self.runtime}/none"), 1, "no such socket")

    def test_no_terminal(self):
        self.assertFailure(self.run_on("top"), 1, "standard input is no terminal", "samepage top --once")
        terminal = self.top()
        terminal.press("q")
        terminal.wait_end()
        self.assertFailure(self.samepage("top", "--socket", self.socket, stdin=terminal.slave), 1,
                           "standard output is no terminal", "samepage top --once")

    def test_terminals_that_cannot(self):
        for term, text in (("dumb", "'dumb' (TERM) cannot be drawn on"), ("no-such", "'no-such' (TERM) is not known"),
                           ("", "TERM is not set")):
            with self.subTest(term=term):
                t = self.top(columns=200, term=term)
                self.assertEqual(t.wait_end(), 1)
                self.assertIn(text, t.text())
                self.assertIn("samepage top --once", t.text())
                self.assertEqual(t.settings(), t.before)


class OnTheScreen(Top):
    def assertRestored(self, t, status):
        self.assertEqual(t.wait_end(), status)
        self.assertEqual(t.settings(), t.before)
        self.assertGreater(t.raw.rfind(b"\x1b[?1049l"), t.raw.rfind(b"\x1b[?1049h"), "the screen before is back")
        self.assertGreater(t.raw.rfind(b"\x1b[34h\x1b[?25h"), t.raw.rfind(b"\x1b[?25l"), "the cursor is back")

    def shown(self, t, *expected):
        t.wait(lambda lines: names(lines) == list(expected), expected)

    def test_80x24(self):
        self.sharing()
        t = self.top()
        self.shown(t, *names(t.wait(lambda lines: lines if len(names(lines)) == 3 else None, "three clients")))
        lines = t.lines()
        self.assertIn(self.socket, lines[0])
        self.assertIn("sorted by saved; 1 domain, 3 clients", lines[2])
        self.assertRegex(lines[3], "^CLIENTS DOMAIN OF .* CPU%$")
        self.assertRegex(lines[4], "^      3 root .* (8.0|7.9)M .* (4.0|3.9)M ")
        self.assertRegex(lines[5], "^    PID NAME .* CPU%")
        self.assertIn("q ends", lines[23])
        self.assertNotEqual(t.settings(), t.before)
        t.press("q")
        self.assertRestored(t, 0)

    def test_sorting(self):
        self.sharing()
        t = self.top()
        for keys, order, said in (("n", ("little", "twin-a", "twin-b"), "sorted by name;"),
                                  ("n", ("twin-b", "twin-a", "little"), "sorted by name, reversed;"),
                                  ("p", ("twin-a", "twin-b", "little"), "sorted by pid;"),
                                  (">", ("little", "twin-a", "twin-b"), "sorted by name;"),
                                  ("<", ("twin-a", "twin-b", "little"), "sorted by pid;")):
            t.press(keys)
            t.wait_text(said)
            self.shown(t, *order)
        t.press("v")
        t.wait(lambda lines: "sorted by saved;" in lines[2] and names(lines)[2:] == ["little"], "saved, most first")
        t.press("v")
        t.wait(lambda lines: "sorted by saved, reversed" in lines[2] and names(lines)[0] == "little", "reversed")
        for key, said in zip("rsbfmc", ("resident", "shared", "broken", "p99", "max", "cpu")):
            t.press(key)
            t.wait_text(f"sorted by {said};")

    def test_size_and_scrolling(self):
        self.sharing()
        t = self.top("--sort", "name", rows=8)
        self.shown(t, "little")
        t.press("\x1bOB")
        self.shown(t, "twin-a")
        t.press("\x1b[6~")
        self.shown(t, "twin-b")
        t.press("\x1b[6~\x1bOB")
        self.shown(t, "twin-b")
        t.press("\x1b[1~")
        self.shown(t, "little")
        t.resize(24, 120)
        t.wait(lambda lines: any(line.endswith(" running") for line in lines) and "q ends" in lines[23], "wider")
        self.shown(t, "little", "twin-a", "twin-b")
        for rows, columns in ((1, 10), (2, 200), (5, 1), (3, 3)):
            t.resize(rows, columns)
            t.press(" ")
            t.read(0.1)
        t.resize(24, 80)
        t.wait(lambda lines: "q ends" in lines[23] and len(names(lines)) == 3, "as before")
        t.press("q")
        self.assertRestored(t, 0)

    def test_signals(self):
        for name in ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGSEGV", "SIGABRT", "SIGUSR1"):
            with self.subTest(signal=name):
                t = self.top()
                t.wait_text("no program has connected")
                t.process.send_signal(getattr(signal, name))
                self.assertRestored(t, -getattr(signal, name))
        t = self.top()
        t.wait_text("no program has connected")
        t.press("\x03")
        self.assertRestored(t, -signal.SIGINT)

    def test_stopped_and_continued(self):
        """By the keys, from a shell, as only a job of a shell can be stopped so."""
        t = Terminal(["bash", "--norc", "-i"], dict(self.environment, PS1="ready> "), columns=200)
        self.addCleanup(t.close)
        t.wait_text("ready>")
        t.press(f"{SAMEPAGE} top --socket {self.socket}\n")
        t.wait_text("no program has connected")
        t.press("\x1a")
        t.wait_text("Stopped")
        t.press("clear; stty -a | tr ' ' _; echo as before\n")
        t.wait(lambda lines: "_icanon_" in t.text() and "_echo_" in t.text() and "as before" in lines, "settings")
        t.press("clear; fg\n")
        t.wait_text("no program has connected")
        t.press("q")
        t.wait_text("ready>")
        t.press("exit\n")
        self.assertEqual(t.wait_end(), 0)

    def test_the_terminal_goes(self):
        t = self.top()
        t.wait_text("no program has connected")
        os.close(t.slave)
        os.close(t.master)
        self.assertEqual(t.process.wait(60), -signal.SIGHUP)

    def test_a_program_comes_and_goes(self):
        t = self.top()
        t.wait_text("no domain yet")
        p = self.program("comer", mib=2)
        self.shown(t, "comer")
        p.kill()
        t.wait(lambda lines: "1 domain, 0 clients" in lines[2] and lines[4].startswith("      0 root"), "it went")

    def test_the_daemon_ends_and_another_comes(self):
        t = self.top()
        t.wait_text(f"samepaged {self.daemon_process.pid}: up")
        self.daemon_process.kill()
        self.daemon_process.wait()
        t.wait_text("s: no daemon listens there")
        t.wait_text("no answer for ")
        self.daemon(self.socket)
        t.wait(lambda lines: f"samepaged {self.daemon_process.pid}: up" in lines[1] and "sorted" in lines[2],
               "a new one")
        t.press("q")
        self.assertRestored(t, 0)

    def test_the_daemon_hangs(self):
        t = self.top()
        t.wait_text("no program has connected")
        self.daemon_process.send_signal(signal.SIGSTOP)
        t.wait_text("no answer in time")
        t.press("q")
        self.assertRestored(t, 0)
        self.daemon_process.send_signal(signal.SIGCONT)


if __name__ == "__main__":
    tap.main()
