#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""samepage estimate: memory of which is known what is in it, real programs, and everything that can go wrong."""

import array
import ctypes
import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import tap
from cli_helper import BUILD, SAMEPAGE, Case, become_nobody, process_state, wait_until

PAGES = f"{BUILD}/test/programs/estimate_pages"
PAGE = 4096
NOISE = 64  # pages: what a program has besides (stack, C library)
DECEIVED = 3  # stated errors: two standard deviations are exceeded in 5 of 100 cases, six hardly ever


class EstimateCase(Case):
    def pages(self, seed, *what, **options):
        """A program with such memory (estimate_pages.c), once it has all of it."""
        p = self.popen(str(seed), *what, program=PAGES, stdin=subprocess.PIPE, **options)
        self.assertEqual(p.stdout.readline(), "ready\n")
        return p

    def estimate(self, *words, status=0):
        result = self.samepage("estimate", "--json", *map(str, words))
        self.assertEqual(result[0], status, result[2])
        return json.loads(result[1])

    def assertPages(self, amount, pages, slack=NOISE):
        self.assertLessEqual(abs(amount - pages * PAGE), slack * PAGE, f"{amount / PAGE} pages, not {pages}")


def process_of(report, p):
    return next(x for x in report["processes"] if x["pid"] == p.pid)


def common(report, a, b):
    return next((x["common"] for x in report["pairs"] if {x["a"], x["b"]} == {a.pid, b.pid}), 0)


class Known(EstimateCase):
    def test_unique(self):
        a, b = self.pages(1, "unique:5000"), self.pages(2, "unique:5000")
        r = self.estimate(a.pid, b.pid)
        self.assertPages(r["total"]["private"], 10000, 2 * NOISE)
        self.assertPages(r["total"]["saved"], 0)
        self.assertEqual(r["total"]["saved_error"], 0)

    def test_common(self):
        a, b, c = self.pages(1, "common:3000"), self.pages(2, "common:3000"), self.pages(3, "common:1000")
        r = self.estimate(a.pid, b.pid, c.pid)
        self.assertPages(r["total"]["saved"], 4000)
        self.assertPages(r["total"]["saved_across"], 4000)
        self.assertPages(r["total"]["saved_within"], 0)
        self.assertPages(common(r, a, b), 3000)
        self.assertPages(common(r, a, c), 1000)
        self.assertPages(process_of(r, a)["saved"], 1000 * 2 / 3 + 2000 / 2)
        self.assertPages(process_of(r, c)["saved"], 1000 * 2 / 3)
        self.assertPages(process_of(r, c)["elsewhere"], 1000)

    def test_twins_and_zeros(self):
        a, b = self.pages(1, "twins:1000", "zero:700"), self.pages(2, "twins:500")
        r = self.estimate(a.pid, b.pid)
        self.assertPages(r["total"]["saved_within"], 999 + 499)
        self.assertPages(r["total"]["saved_zero"], 700)
        self.assertPages(r["total"]["saved"], 999 + 499 + 700)
        self.assertPages(process_of(r, a)["within"], 999)
        self.assertPages(common(r, a, b), 0)

    def test_scattered_needs_mappings(self):
        a, b = self.pages(1, "scattered:2000"), self.pages(2, "scattered:2000")
        together = [self.pages(n, "common:2048") for n in (3, 4)]
        r = self.estimate(a.pid, b.pid)
        self.assertPages(common(r, a, b), 2000)
        self.assertGreaterEqual(process_of(r, a)["mappings_added"], 2 * 2000)
        r = self.estimate(*(p.pid for p in together))
        self.assertLessEqual(process_of(r, together[0])["mappings_added"], 2 * (2048 / 512 + 8))

    def test_sparse(self):
        a, b = self.pages(1, "sparse:300"), self.pages(2, "common:300")
        self.assertPages(self.estimate(a.pid, b.pid)["total"]["saved"], 300)

    def test_what_samepage_leaves_alone(self):
        a, b = self.pages(1, "readonly:400", "file:5"), self.pages(2, "common:400")
        r = self.estimate(a.pid, b.pid)
        self.assertPages(r["total"]["saved"], 0)
        self.assertPages(r["total"]["left"], 200)
        self.assertIn("not both readable and writable", [m["why"] for m in r["mappings"]])
        kinds = {k["kind"]: k for k in r["kinds"]}
        self.assertGreaterEqual(kinds["file"]["private"], 5 * PAGE)
        self.assertEqual(kinds["file"]["saved"], 0)

    def test_stack(self):
        a, b = self.pages(1, "stack:300"), self.pages(2, "stack:300")
        kinds = {k["kind"]: k for k in self.estimate(a.pid, b.pid)["kinds"]}
        self.assertPages(kinds["stack"]["private"], 600)
        self.assertPages(kinds["stack"]["left"], 300)

    def test_heap(self):
        words = "import sys; l = [bytes([i % 251]) * 3000 for i in range(3000)]; print('ready', flush=True); sys.stdin.read()"
        python = [self.popen("-c", words, program=sys.executable, stdin=subprocess.PIPE) for _ in range(2)]
        for p in python:
            self.assertEqual(p.stdout.readline(), "ready\n")
        kinds = {k["kind"]: k for k in self.estimate(*(p.pid for p in python))["kinds"]}
        self.assertGreater(kinds["heap"]["private"], 2 * 3000 * 3000)

    def test_huge(self):
        a, b = self.pages(1, "huge:2048"), self.pages(2, "common:2048")
        r = self.estimate(a.pid, b.pid)
        if not r["total"]["huge"]:
            self.skipTest("this kernel gives no huge pages")
        huge = process_of(r, a)["huge"] / PAGE
        self.assertPages(r["total"]["saved"], 2048)
        self.assertPages(r["total"]["saved_huge"], huge / 2)

    def test_pages_of_a_fork_are_shared(self):
        """Parent and child have the same pages, which cost nothing twice."""
        a = self.pages(1, "forked:2000")
        child = next(p for p in children(a.pid))
        r = self.estimate(a.pid, child)
        self.assertPages(r["total"]["shared"] - 2 * self.files(r), 4000, 4 * NOISE)
        self.assertPages(r["total"]["saved"], 0)

    @staticmethod
    def files(r):
        return sum(k["shared"] for k in r["kinds"] if k["kind"] in ("file", "other")) / 2

    def test_memory_of_two_processes_counts_once(self):
        a = self.pages(1, "vforked:2000")
        family = wait_until(lambda: descendants(a.pid) if len(descendants(a.pid)) == 2 else None, "vfork")
        if kcmp_memory(os.getpid(), os.getpid()):
            self.skipTest("this kernel has no kcmp")
        status, out, err = self.samepage("estimate", "--json", *map(str, family))
        self.assertIn("has the same memory as another one", err)
        self.assertEqual((status, json.loads(out)["left_out"]["same_memory"]), (0, 1))

    def test_the_kernels_page_of_zeros_is_no_memory(self):
        a = self.pages(1, "read:3000")
        self.assertPages(self.estimate(a.pid)["total"]["zero"], 0)

    def test_cells(self):
        a, b = self.pages(1, "common:4096"), self.pages(2, "common:2048")
        mapping = next(m for m in self.estimate(a.pid, b.pid)["mappings"] if m["pid"] == a.pid)
        self.assertEqual(len(mapping["cells"]), 32)
        self.assertEqual([c[3] for c in mapping["cells"]], [128] * 16 + [0] * 16)
        self.assertEqual([c[0] for c in mapping["cells"]], [128] * 32)

    def test_nothing_is_brought_in_or_changed(self):
        a = self.pages(1, "unique:1000", "sparse:50", "read:100")
        look = lambda: (lines(a.pid, "statm"), lines(a.pid, "maps"), present(a.pid))
        before = look()
        self.estimate(a.pid)
        self.estimate("--sample", "1/4", a.pid)
        self.assertEqual(look(), before)


def lines(pid, name):
    with open(f"/proc/{pid}/{name}", encoding="utf-8") as f:
        return f.read()


def present(pid):
    """The pages that are present, in mappings that may be read (bit 63 of their pagemap entries)."""
    found = []
    with open(f"/proc/{pid}/pagemap", "rb") as f:
        for line in lines(pid, "maps").splitlines():
            start, end = (int(x, 16) // PAGE for x in line.split()[0].split("-"))
            if line.split()[1][0] == "r" and end < 1 << 40:
                f.seek(start * 8)
                entries = array.array("Q", f.read((end - start) * 8))
                found += [start + i for i, e in enumerate(entries) if e >> 63]
    return found


def kcmp_memory(a, b):
    """kcmp(2) with KCMP_VM: 0 when they have the same memory."""
    number = {"x86_64": 312, "aarch64": 272}[os.uname().machine]
    return ctypes.CDLL(None).syscall(number, a, b, 1, 0, 0)


def children(pid):
    return [int(p) for p in os.listdir("/proc") if p.isdigit() and parent(int(p)) == pid]


def parent(pid):
    try:
        return int(lines(pid, "stat").rsplit(")", 1)[1].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def descendants(pid):
    found = children(pid)
    return found + [p for child in found for p in descendants(child)]


class Samples(EstimateCase):
    def assertBounds(self, what, one_in, exact, repeat=8):
        """The stated error holds, in a sample with a fresh key each time, and says something."""
        processes = [self.pages(n, *what) for n in (1, 2)]
        held = 0
        for _ in range(repeat):
            r = self.estimate("--sample", f"1/{one_in}", *(p.pid for p in processes))
            off, error = abs(r["total"]["saved"] - exact * PAGE), r["total"]["saved_error"]
            held += off <= error + NOISE * PAGE
            self.assertLessEqual(off, DECEIVED * error + NOISE * PAGE)
            self.assertLess(error, r["total"]["private"] / 3)
            self.assertLess(r["reading"]["read"], r["total"]["private"] * 0.9)
        self.assertGreater(held, repeat / 2)

    def test_unique(self):
        self.assertBounds(["unique:20000"], 16, 0)

    def test_common_and_unique(self):
        self.assertBounds(["unique:10000", "common:10000"], 16, 10000)

    def test_one_page_with_many_copies(self):
        """In 15 of 16 samples this page is missing, and no figure depends on it."""
        self.assertBounds(["unique:10000", "twins:10000"], 16, 2 * 9999)

    def test_zeros_are_counted(self):
        a = self.pages(1, "zero:5000", "unique:5000")
        self.assertPages(self.estimate("--sample", "1/64", a.pid)["total"]["saved_zero"], 5000)

    def test_pages_that_are_alike(self):
        """Most of their lines are zeros: all are read, and still each is sampled by itself."""
        a = self.pages(1, "alike:20000")
        for _ in range(4):
            r = self.estimate("--sample", "1/16", a.pid)
            self.assertLessEqual(r["total"]["saved"], DECEIVED * r["total"]["saved_error"] + NOISE * PAGE)
            self.assertLess(r["total"]["saved_error"], 20000 * PAGE / 8)

    def test_pairs(self):
        a, b = self.pages(1, "common:20000"), self.pages(2, "common:20000")
        r = self.estimate("--sample", "1/16", a.pid, b.pid)
        self.assertLessEqual(abs(common(r, a, b) - 20000 * PAGE), DECEIVED * r["pairs"][0]["error"] + NOISE * PAGE)

    def test_one_in_one_is_everything(self):
        a, b = self.pages(1, "common:1000"), self.pages(2, "common:1000")
        r = self.estimate("--sample", "1/1", a.pid, b.pid)
        self.assertPages(r["total"]["saved"], 1000)
        self.assertEqual(r["total"]["saved_error"], 0)


class Programs(EstimateCase):
    """Real programs: eight interpreters with the same data in another order of time."""

    def test_eight_pythons(self):
        words = ("import sys, json, random\nr = random.Random(1)\n"
                 "data = [r.random() for _ in range(300000)]\nprint('ready', flush=True)\nsys.stdin.read()")
        python = [self.popen("-c", words, program=sys.executable, stdin=subprocess.PIPE,
                             env={**self.environment, "PYTHONHASHSEED": "0"}) for _ in range(8)]
        for p in python:
            self.assertEqual(p.stdout.readline(), "ready\n")
        r = self.estimate(*(p.pid for p in python))
        self.assertEqual(len(r["processes"]), 8)
        self.assertEqual(len(r["pairs"]), 28)
        t = r["total"]
        self.assertGreater(t["saved"], 0)
        self.assertLessEqual(t["saved"], t["private"])
        self.assertAlmostEqual(t["saved"], t["saved_zero"] + t["saved_within"] + t["saved_across"], delta=PAGE)
        self.assertAlmostEqual(t["saved"], sum(p["saved"] for p in r["processes"]), delta=8 * PAGE)
        self.assertAlmostEqual(t["saved"], sum(k["saved"] for k in r["kinds"]), delta=8 * PAGE)
        for p in r["processes"]:
            self.assertLessEqual(p["private"] + p["shared"], p["resident"] + PAGE)


    def test_what_is_merged_is_not_saved_again(self):
        """The estimate comes true under samepage run, and then there is nothing left."""
        if self.samepage("doctor")[0]:
            self.skipTest("nothing can be merged here: see samepage doctor")
        what = ("common:5000", "zero:1000", "unique:1000")
        programs = [self.pages(n, *what) for n in (1, 2)]
        self.assertPages(self.estimate(*(p.pid for p in programs))["total"]["saved"], 7000)
        socket = self.daemon()
        merged = []
        for n in (1, 2):
            p = self.popen("run", "--all", "--socket", socket, "--", PAGES, str(n), *what, stdin=subprocess.PIPE)
            self.assertEqual(p.stdout.readline(), "ready\n")
            merged.append(p)

        def done():
            """What one has merged is no copy any more of what the other has not merged yet. The workers need some
            private memory, too."""
            r = self.estimate(*(p.pid for p in merged))["total"]
            return r["saved"] < 2 * NOISE * PAGE and abs(r["private"] - 2 * 1000 * PAGE) < 8 * NOISE * PAGE
        wait_until(done, "the end of merging")


class Commands(EstimateCase):
    def test_family(self):
        """The command, a child, and a grandchild whose parent has ended."""
        words = f"exec 3<&0; {PAGES} 1 common:1000 <&3 & ({PAGES} 2 common:1000 <&3 &) ; exec {PAGES} 3 common:1000"
        read, write = os.pipe()  # whose end they wait for
        p = self.popen("estimate", "--json", "--after", "0.5", "--until-end", "--", "/bin/sh", "-c", words, stdin=read)
        os.close(read)
        for _ in range(3):
            self.assertEqual(p.stderr.readline(), "ready\n")  # what the command says is on standard error
        time.sleep(3)  # some looks at all three
        os.close(write)
        out, err = p.communicate(timeout=60)
        self.assertEqual(p.returncode, 0, err)
        r = json.loads(out)
        self.assertEqual((len(r["processes"]), r["command"]), (3, "/bin/sh"), r)
        self.assertPages(r["total"]["saved"], 2000)

    def test_end_is_waited_for(self):
        start = time.monotonic()
        status, out, _ = self.samepage("estimate", "--after", "0.2", "--", "sleep", "4")
        self.assertEqual(status, 0)
        self.assertRegex(out, r"^sleep, \d")
        self.assertGreaterEqual(time.monotonic() - start, 3.9)

    def test_terminate(self):
        p = self.popen("estimate", "--after", "3", "--terminate", "--", "/bin/sh", "-c",
                       "trap '' TERM; sleep 1000 & echo $! $$; wait")
        out, err = p.communicate(timeout=60)
        self.assertEqual(p.returncode, 0, err)
        for pid in out.splitlines()[0].split():
            self.assertEqual(process_state(int(pid)), "")

    def test_until_end(self):
        words = "import time; x = bytearray(b'ab' * (8 << 20)); time.sleep(1.2); del x; time.sleep(0.8)"
        status, out, err = self.samepage("estimate", "--json", "--after", "0.3", "--until-end", "--", sys.executable,
                                         "-c", words)
        self.assertEqual(status, 0, err)
        self.assertGreater(json.loads(out)["total"]["saved"], 15 << 20)

    def test_ends_before(self):
        self.assertFailure(self.samepage("estimate", "--", "true"), 1, "ended before it was looked at")

    def test_cannot_be_run(self):
        self.assertFailure(self.samepage("estimate", "--", "/nonexistent/x"), 1, "cannot run /nonexistent/x: not found")
        self.assertFailure(self.samepage("estimate", "--", "/etc/passwd"), 1, "Permission denied")

    def test_signals_are_the_commands(self):
        p = self.popen("estimate", "--after", "0.3", "--", "sleep", "1000", start_new_session=True)
        while not p.stdout.readline().startswith("Merging would save"):
            self.assertIsNone(p.poll())
        os.killpg(p.pid, signal.SIGINT)
        _, err = p.communicate(timeout=60)
        self.assertEqual(p.returncode, 0, err)


class Wrong(EstimateCase):
    def test_usage(self):
        for words, text in (((), "no process named"), (("--all", "1"), "either --all or processes"),
                            (("--all", "--", "true"), "either --all or a command"), (("--",), "no command to run"),
                            (("x",), "'x' is no process number"), (("0",), "'0' is no process number"),
                            (("1x",), "'1x' is no process number"), (("99999999999",), "is no process number"),
                            (("--after", "1", "1"), "option '--after' is for a command"),
                            (("--until-end", "1"), "option '--until-end' is for a command"),
                            (("--terminate", "1"), "option '--terminate' is for a command"),
                            (("--until-end", "--terminate", "--", "true"), "either --until-end or --terminate"),
                            (("--until-end", "--after", "0", "--", "true"), "of more than 0 seconds"),
                            (("--html", "", "1"), "option '--html' needs a file"), (("--html",), "needs an argument"),
                            (("--smaple", "1/2"), "did you mean '--sample'?")):
            with self.subTest(words=words):
                self.assertUsage(self.samepage("estimate", *words), text, "estimate")

    def test_wrong_samples(self):
        for word in ("", "2", "1", "1/", "1/0", "1/-1", "1/x", "2/3", "1/2x", "1/65537", "1/99999999999999999999", " 1/2",
                     "1/ 2", "0.5"):
            with self.subTest(word=word):
                self.assertUsage(self.samepage("estimate", "--sample", word, "1"), "is not 1/N with N from 1 to 65536",
                                 "estimate")

    def test_wrong_after(self):
        for word in ("", "x", "-1", "1s", "nan", "inf", "1e9"):
            with self.subTest(word=word):
                self.assertUsage(self.samepage("estimate", "--after", word, "--", "true"), "is not a number of seconds",
                                 "estimate")

    def test_no_such_process(self):
        gone = self.popen("-c", "pass", program=sys.executable)
        gone.wait()
        self.assertFailure(self.samepage("estimate", str(gone.pid)), 1, f"process {gone.pid} cannot be read",
                           "there is none")

    def test_one_of_two_is_gone(self):
        """What can be told is told, and the status says that something is missing."""
        a = self.pages(1, "twins:100")
        gone = self.popen("-c", "pass", program=sys.executable)
        gone.wait()
        status, out, err = self.samepage("estimate", "--json", str(gone.pid), str(a.pid))
        self.assertEqual(status, 1)
        self.assertIn(f"process {gone.pid} cannot be read", err)
        self.assertEqual(len(json.loads(out)["processes"]), 1)

    def test_ended_process_nobody_waited_for(self):
        p = self.popen("-c", "pass", program=sys.executable)
        wait_until(lambda: lines(p.pid, "stat").rsplit(")", 1)[1].split()[0] == "Z", "its end")
        self.assertFailure(self.samepage("estimate", str(p.pid)), 1, "has no memory of its own")

    def test_kernel_thread(self):
        if not os.path.exists("/proc/2/stat") or parent(2) != 0:
            self.skipTest("no kernel threads here")
        self.assertFailure(self.samepage("estimate", "2"), 1, "has no memory of its own")

    def test_other_users_process(self):
        if os.geteuid():
            self.skipTest("needs root, to become somebody else")
        a = self.pages(1, "twins:100")
        self.assertFailure(self.samepage_of_nobody("estimate", str(a.pid)), 1, "permission denied")

    def test_own_process_without_root(self):
        if os.geteuid():
            self.skipTest("needs root, to become somebody else")
        with tempfile.TemporaryDirectory(prefix="sp-cli-") as directory:
            os.chmod(directory, 0o755)
            copy = f"{directory}/estimate_pages"
            subprocess.run(["cp", PAGES, copy], check=True)
            a = self.popen("1", "twins:1000", program=copy, stdin=subprocess.PIPE, preexec_fn=become_nobody)
            self.assertEqual(a.stdout.readline(), "ready\n")
            status, out, err = self.samepage_of_nobody("estimate", "--json", str(a.pid))
            if "yama" in err:
                self.skipTest("the Yama module forbids it here")
            self.assertEqual(status, 0, err)
            self.assertPages(json.loads(out)["total"]["saved"], 999)
            r = json.loads(self.samepage_of_nobody("estimate", "--json", "--all")[1])
            self.assertIn(a.pid, [p["pid"] for p in r["processes"]])
            self.assertGreater(r["left_out"]["denied"], 0)

    def test_processes_that_end_meanwhile(self):
        """While they are read their memory goes; what is left is told."""
        stay = self.pages(99, "twins:500")
        go = [self.pages(n, "unique:30000") for n in range(6)]
        p = self.popen("estimate", "--json", str(stay.pid), *(str(x.pid) for x in go))
        for x in go:
            x.kill()
        out, err = p.communicate(timeout=60)
        r = json.loads(out)
        self.assertIn(stay.pid, [x["pid"] for x in r["processes"]])
        read = {x["pid"] for x in r["processes"]}
        for x in go:
            self.assertTrue(x.pid in read or f"process {x.pid} " in err, err)
        self.assertEqual(p.returncode, 0 if read >= {x.pid for x in go} else 1)
        for x in r["processes"]:  # nothing of those that have ended is in the sums
            self.assertGreater(x["private"], 0)

    def test_full_disk(self):
        a = self.pages(1, "twins:100")
        for words in ((), ("--json",)):
            with self.subTest(words=words), open("/dev/full", "w", encoding="ascii") as full:
                status, _, err = self.samepage("estimate", *words, str(a.pid), stdout=full)
                self.assertEqual(status, 1)
                self.assertIn("cannot write to standard output: No space left on device", err)

    def test_all(self):
        a = self.pages(1, "twins:1000")
        r = self.estimate("--all")
        self.assertPages(process_of(r, a)["within"], 999)

    def test_progress_on_a_terminal_only(self):
        a = self.pages(1, "unique:30000")
        self.assertEqual(self.samepage("estimate", str(a.pid))[2], "")
        leader, follower = pty.openpty()
        p = self.popen("estimate", str(a.pid), stderr=follower)
        os.close(follower)
        p.communicate(timeout=60)
        shown = os.read(leader, 65536).decode()
        os.close(leader)
        self.assertRegex(shown, r"\[#* +\] .*process 1 of 1: estimate_pages")
        self.assertTrue(shown.endswith("\r\x1b[K"))


if __name__ == "__main__":
    tap.main()
