#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""samepage get, set, wait and unmerge: wrong input, whose domain, and what they do to programs that run."""

import json
import os
import signal
import subprocess
import unittest

import tap
from cli_helper import SAMEPAGE, SAMEPAGED, Case, private_daemons, wait_until

PYTHON = "/usr/bin/python3"
MIB = 1 << 20
PAGE = 4096

# Does what it is told: memory of 8 MiB with content by number, or of zeros; checks it; tells how much is shared.
# It writes page by page: a long memcpy writes its first bytes once more at its end, when that page is merged already.
CLIENT = """
import mmap, random, sys
memory = []
def content(seed):
    return bytes(8 << 20) if seed == 0 else random.Random(seed).randbytes(8 << 20)
for line in sys.stdin:
    what, seed = line.split()
    if what == "map":
        m = mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        m.madvise(mmap.MADV_MERGEABLE)
        c = content(int(seed))
        for i in range(0, len(c), 4096):
            m.write(c[i:i + 4096])
        memory.append((m, int(seed)))
        print("mapped", flush=True)
    elif what == "check":
        print(all(m[:] == content(s) for m, s in memory), flush=True)
"""

SETTINGS = ("run", "sleep_millisecs", "sleep_max_millisecs", "pages_to_scan", "max_pages_to_merge", "freeze_micros",
            "map_percent", "huge_split_percent", "worker_start_kbytes", "worker_start_millisecs", "max_page_sharing",
            "merge_across_nodes", "use_zero_pages", "smart_scan", "advisor_mode", "advisor_max_cpu",
            "advisor_target_scan_time", "advisor_min_pages_to_scan", "advisor_max_pages_to_scan",
            "stable_node_chains_prune_millisecs", "lazy_max_cpu", "store_max_mbytes", "exposure_max_percent")


class Control(Case):
    def setUp(self):
        super().setUp()
        self.socket = self.daemon(None, "--set", "sleep_millisecs=5,sleep_max_millisecs=20")

    def run_on(self, command, *words):
        return self.samepage(command, "--socket", self.socket, *words)

    def get(self, key, *words):
        status, out, err = self.run_on("get", *words, key)
        self.assertEqual((status, err), (0, ""))
        return int(out)

    def set_to(self, *words):
        self.assertEqual(self.run_on("set", *words), (0, "", ""))

    def wait_settled(self):
        self.assertEqual(self.run_on("wait", "--settled", "--timeout", "60"), (0, "", ""))

    def client(self, *seeds):
        p = self.popen("run", "--advised", "--socket", self.socket, "--", PYTHON, "-c", CLIENT, stdin=-1)
        for seed in seeds:
            self.tell(p, f"map {seed}", "mapped")
        return p

    def tell(self, p, text, answer):
        p.stdin.write(text + "\n")
        p.stdin.flush()
        self.assertEqual(p.stdout.readline(), answer + "\n")

    def clients(self):
        """Process numbers of those that have joined."""
        text = self.samepage("status", "--json", "--socket", self.socket)[1]
        self.assertEqual(json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n", text)
        found = json.loads(text)["daemons"][0]["domains"]
        return [c["pid"] for d in found for c in d["clients"]]

    def joined(self, *programs):
        wait_until(lambda: {p.pid for p in programs} <= set(self.clients()), "all have joined")

    def twins(self, *seeds):
        a, b = self.client(*seeds), self.client(*seeds)
        self.joined(a, b)
        self.wait_settled()
        return a, b

    @staticmethod
    def shared(p):
        """Bytes of the program's memory that are the store's and were not written, by smaps."""
        total, of_store = 0, False
        with open(f"/proc/{p.pid}/smaps", encoding="utf-8", errors="replace") as f:
            for line in f:
                words = line.split()
                if not words[0].endswith(":"):
                    of_store = "/memfd:samepage " in line
                elif words[0] == "Size:" and of_store:
                    total += int(words[1]) * 1024
                elif words[0] == "Anonymous:" and of_store:
                    total -= int(words[1]) * 1024
        return total


class WrongInput(Control):
    def test_nothing_is_set_where_a_part_is_wrong(self):
        before = self.run_on("get")
        cases = (
            (("run=3",), "value out of range '3' for run; allowed: 0 to 2"),
            (("run=-1",), "malformed value '-1' for run; allowed: 0 to 2"),
            (("run=",), "allowed: 0 to 2"),
            (("run",), "'run' is not KEY=VALUE"),
            (("",), "is not KEY=VALUE"),
            (("=1",), "is not KEY=VALUE"),
            (("run=0,freeze_micros=99",), "'0,freeze_micros=99'"),
            (("freeze_micros=99", "run=0", "run=0"), "run is given twice"),
            (("freeze_micros=99", "map_percent=96"), "0 to 95 (percent)"),
            (("freeze_micros=99", "max_page_sharing=1"), "2 to 2147483647"),
            (("freeze_micros=99", "pages_to_scan=4294967296"), "0 to 4294967295"),
            (("freeze_micros=99", "use_zero_pages=2"), "0 to 1"),
            (("freeze_micros=99", "advisor_mode=1"), "unknown value '1' for advisor_mode; allowed: none, scan-time"),
            (("freeze_micros=99", "advisor_target_scan_time=0"), "1 to 4294967295 (s)"),
            (("freeze_micros=99", "ran=1"), "unknown setting 'ran'"),
            (("freeze_micros=99", "pages_shared=1"), "'pages_shared' is a counter: it can be read, not set"),
            (("freeze_micros=99", "general_profit=1"), "counter"),
            (("freeze_micros=99", "\udcff\n=1"), "unknown setting '??'"),
            (("freeze_micros=" + "9" * 5000,), "value out of range"),
            ((), "nothing to set"),
            (("--user", "root", "freeze_micros=99", "exposure_max_percent=1"), "leave out --user"),
            (("--user", "no such user", "freeze_micros=99"), "no user 'no such user'"),
            (("--user", "", "freeze_micros=99"), "no user ''"),
            (("--user", "4294967295", "freeze_micros=99"), "no user '4294967295'"),
        )
        for words, text in cases:
            with self.subTest(words=str(words)[:60]):
                self.assertUsage(self.run_on("set", *words), text, "set")
        self.assertFailure(self.run_on("set", "--user", "12345", "run=0"), 1, "no domain of user '12345'")
        self.assertFailure(self.run_on("set", "advisor_mode=scan-time", "pages_to_scan=9"), 1,
                           "pages_to_scan is the advisor's to choose")
        self.assertEqual(self.run_on("get"), before)

    def test_get(self):
        self.assertUsage(self.run_on("get", "run", "run"), "one key at a time", "get")
        self.assertUsage(self.run_on("get", "rum"), "no setting or counter 'rum'; did you mean 'run'?", "get")
        self.assertUsage(self.run_on("get", ""), "no setting or counter ''", "get")
        self.assertUsage(self.run_on("get", "run=1"), "no setting or counter 'run=1'", "get")
        self.assertFailure(self.run_on("get", "--user", "12345"), 1, "no domain of user '12345'")

    def test_wait(self):
        self.assertUsage(self.run_on("wait"), "'--settled' is needed", "wait")
        self.assertUsage(self.run_on("wait", "--settled", "x"), "unexpected argument 'x'", "wait")
        for text in ("", "x", "-1", "1x", "nan", "inf", "1e99", "0x1p2000"):
            for command in (("wait", "--settled"), ("unmerge",)):
                self.assertUsage(self.run_on(*command, f"--timeout={text}"), "is no number of seconds", command[0])
        self.assertUsage(self.run_on("unmerge", "x"), "unexpected argument 'x'", "unmerge")
        self.assertUsage(self.run_on("unmerge", "--settled"), "unknown option '--settled'", "unmerge")

    def test_no_such_daemon(self):
        for words in (("get",), ("set", "run=0"), ("wait", "--settled"), ("unmerge",)):
            with self.subTest(words=words):
                self.assertUsage(self.samepage(words[0], "--socket", "", *words[1:]), "needs a path", words[0])
                none = f"{self.runtime}/none"
                self.assertFailure(self.samepage(words[0], "--socket", none, *words[1:]), 1, none, "no such socket")
                long = "/" + "x" * 200
                self.assertFailure(self.samepage(words[0], "--socket", long, *words[1:]), 1, "too long")

    def test_full_disk(self):
        for words in (("get",), ("get", "run"), ("get", "--json")):
            with open("/dev/full", "w", encoding="ascii") as full:
                status, _, err = self.samepage(words[0], "--socket", self.socket, *words[1:], stdout=full)
            self.assertEqual(status, 1)
            self.assertIn("No space left on device", err)


class Which(Control):
    def test_the_one_that_runs(self):
        """Found by itself while it is the only one; asked back for when there are two."""
        if os.path.exists("/run/samepage/socket"):
            self.skipTest("a daemon for everybody runs on this machine")
        # Within `samepage run` it is the one that the command has.
        found = self.samepage("run", "--set", "map_percent=12", "--", SAMEPAGE, "get", "map_percent")
        self.assertEqual(found, (0, "12\n", ""))
        wait_until(lambda: private_daemons(self.runtime) == [self.daemon_process.pid], "the private daemon's end")
        first = self.daemon(f"{self.runtime}/samepage/socket")
        self.assertEqual(self.samepage_of_nobody("get", "run"), (0, "1\n", ""))
        self.set(SAMEPAGE_SOCKET=self.socket)
        self.assertEqual(self.samepage("get", "sleep_millisecs"), (0, "5\n", ""))
        self.assertEqual(self.samepage("get", "--socket", first, "sleep_millisecs"), (0, "20\n", ""))

    def test_several(self):
        if os.path.exists("/run/samepage/socket"):
            self.skipTest("a daemon for everybody runs on this machine")
        one = self.daemon(f"{self.runtime}/samepage/socket")
        two = self.daemon(f"{self.runtime}/samepage-two/socket")
        sockets = [s for s in (one, two) if s in self.samepage("status")[1]]
        for words in (("get",), ("set", "run=0"), ("wait", "--settled"), ("unmerge",)):
            result = self.samepage(*words)
            if len(sockets) == 2:
                self.assertUsage(result, "several daemons run", words[0])
        self.assertEqual(self.samepage("get", "--socket", one, "run"), (0, "1\n", ""))

    def test_no_daemon(self):
        if os.path.exists("/run/samepage/socket"):
            self.skipTest("a daemon for everybody runs on this machine")
        for words in (("get",), ("set", "run=0"), ("wait", "--settled"), ("unmerge",)):
            self.assertFailure(self.samepage_of_nobody(*words), 1, "no daemon is running")

    @unittest.skipIf(os.geteuid(), "needs root to act for another user")
    def test_whose(self):
        """Another user has a domain of their own, and no say beyond it."""
        nobody = ("--socket", self.socket)
        self.assertEqual(self.samepage_of_nobody("set", *nobody, "run=0", "freeze_micros=77"), (0, "", ""))
        self.assertEqual(self.samepage_of_nobody("get", *nobody, "run"), (0, "0\n", ""))
        self.assertEqual(self.get("run"), 1)
        self.assertEqual(self.get("run", "--user", "nobody"), 0)
        for words, text in ((("store_max_mbytes=1",), "only root, or the user that the daemon runs as, sets store_max"),
                            (("run=1", "exposure_max_percent=1"), "exposure_max_percent"),
                            (("--user", "root", "run=0"), "the domain of user 'root' is not yours")):
            self.assertFailure(self.samepage_of_nobody("set", *nobody, *words), 1, "permission denied", text)
        self.assertFailure(self.samepage_of_nobody("get", *nobody, "--user", "root"), 1, "no domain of user 'root'")
        self.assertEqual(self.get("run", "--user", "nobody"), 0)
        self.set_to("--user", "nobody", "run=1", "store_max_mbytes=5")
        self.assertEqual(self.samepage_of_nobody("get", *nobody, "store_max_mbytes"), (0, "5\n", ""))
        self.assertEqual(self.get("store_max_mbytes"), 0)
        self.set_to("run=2")
        self.assertEqual(self.samepage_of_nobody("get", *nobody, "run"), (0, "2\n", ""))


class Get(Control):
    def test_all_is_a_file_for_the_daemon(self):
        self.set_to("map_percent=33", "smart_scan=0")
        status, text, err = self.run_on("get")
        self.assertEqual((status, err), (0, ""))
        self.assertEqual([line.split("=")[0] for line in text.splitlines()], list(SETTINGS))
        path = f"{self.runtime}/file"
        with open(path, "w", encoding="ascii") as f:
            f.write("# as it was\n" + text)
        other = self.daemon(f"{self.runtime}/other/socket", "--config", path)
        self.assertEqual(self.samepage("get", "--socket", other), (0, text, ""))
        self.assertIn("map_percent=33\n", text)

    def test_json(self):
        self.set_to("map_percent=33")
        status, out, _ = self.run_on("get", "--json")
        self.assertEqual(status, 0)
        found = json.loads(out)
        self.assertEqual(list(found), list(SETTINGS))
        self.assertEqual(found["map_percent"]["value"], 33)
        self.assertEqual(found["map_percent"]["default"], 60)
        self.assertEqual((found["run"]["min"], found["run"]["max"], found["run"]["ksm"]), (0, 2, True))
        self.assertFalse(found["map_percent"]["ksm"])
        self.assertEqual((found["advisor_mode"]["value"], found["advisor_mode"]["values"]), ("none", ["none", "scan-time"]))
        for key in ("run", "pages_shared", "general_profit"):
            found = json.loads(self.run_on("get", "--json", key)[1])
            self.assertEqual(list(found), [key])
            self.assertTrue(found[key]["unit"] and found[key]["meaning"])

    def test_counters_have_ksms_names(self):
        """Every file of the kernel's directory that is no setting is a counter here."""
        try:
            files = set(os.listdir("/sys/kernel/mm/ksm"))
        except FileNotFoundError:
            self.skipTest("this kernel has no KSM")
        for name in files - set(SETTINGS):
            self.assertEqual(self.get(name), 0)
        a, b = self.twins(1)
        self.assertEqual(self.get("pages_shared"), 8 * MIB // PAGE)
        self.assertEqual(self.get("pages_sharing"), 8 * MIB // PAGE)
        self.assertGreater(self.get("general_profit"), 0)
        self.assertEqual(json.loads(self.samepage("status", "--json", "--socket", self.socket)[1])["daemons"][0]
                         ["domains"][0]["settings"]["run"], 1)
        self.end_process(a)
        self.end_process(b)


class Effects(Control):
    def test_run_0_and_1(self):
        a, b = self.twins(1)
        self.assertGreater(self.shared(a), 7 * MIB)
        self.set_to("run=0")
        self.assertFailure(self.run_on("wait", "--settled"), 1, "merging is stopped: run=0")
        self.set_to("run=1", "pages_to_scan=0")
        self.assertFailure(self.run_on("wait", "--settled"), 1, "pages_to_scan=0")
        self.set_to("run=0", "pages_to_scan=4294967295")
        self.tell(a, "map 2", "mapped")
        self.tell(b, "map 2", "mapped")
        scanned = wait_until(lambda: self.still("pages_scanned"), "nothing read any more")
        self.assertLess(self.get("pages_shared"), 9 * MIB // PAGE)
        self.assertLess(self.shared(b), 9 * MIB)
        self.set_to("run=1")
        self.wait_settled()
        self.assertGreater(self.get("pages_scanned"), scanned)
        self.assertGreater(self.shared(a), 15 * MIB)
        self.tell(a, "check 0", "True")
        self.tell(b, "check 0", "True")

    def still(self, counter):
        """The counter, when it is the same a second later: clients report twice a second."""
        before = self.get(counter)
        subprocess.run(["sleep", "1.2"], check=True)
        return before if self.get(counter) == before else 0

    def test_unmerge(self):
        a, b = self.twins(1, 0)
        wait_until(lambda: self.get("ksm_zero_pages") == 2 * 8 * MIB // PAGE, "zeros given back")
        self.assertEqual(self.run_on("unmerge"), (0, "", ""))
        self.assertEqual((self.shared(a), self.shared(b)), (0, 0))
        self.assertEqual(self.get("run"), 2)
        wait_until(lambda: self.get("pages_shared") == 0, "the store's end")
        wait_until(lambda: self.get("ksm_zero_pages") == 0, "zeros with memory of their own")
        self.tell(a, "check 0", "True")
        self.tell(b, "check 0", "True")
        # A program that begins now merges nothing, and has nothing to unmerge.
        c, d = self.client(3), self.client(3)
        self.joined(c, d)
        self.assertEqual(self.run_on("unmerge"), (0, "", ""))
        self.assertEqual((self.shared(c), self.shared(d)), (0, 0))
        self.set_to("run=1")
        self.wait_settled()
        self.assertGreater(self.shared(c), 7 * MIB)

    def test_a_stopped_program_unmerges_when_it_continues(self):
        a, b = self.twins(1)
        os.kill(a.pid, signal.SIGSTOP)
        status, out, err = self.run_on("unmerge", "--timeout", "3")
        self.assertEqual((status, out), (1, ""))
        self.assertIn(f"not yet: process {a.pid} (", err)
        self.assertNotIn(f"process {b.pid} ", err)
        self.assertIn("1 process is not there yet", err)
        self.assertEqual(self.shared(b), 0)
        self.assertGreater(self.shared(a), 7 * MIB)
        os.kill(a.pid, signal.SIGCONT)
        self.assertEqual(self.run_on("unmerge", "--timeout", "60"), (0, "", ""))
        self.assertEqual(self.shared(a), 0)
        self.tell(a, "check 0", "True")
        self.tell(b, "check 0", "True")

    def test_settings_outlive_a_reconnection(self):
        """A daemon that is killed and started again tells whoever joins what its file says."""
        a, b = self.twins(1)
        path = f"{self.runtime}/file"
        with open(path, "w", encoding="ascii") as f:
            f.write("run=2\n")
        self.daemon_process.kill()
        self.daemon_process.wait()
        self.daemon(self.socket, "--config", path)
        wait_until(lambda: self.shared(a) == 0 and self.shared(b) == 0, "both unmerged")
        self.tell(a, "check 0", "True")
        self.tell(b, "check 0", "True")

    def test_wait_gives_up(self):
        self.set_to("pages_to_scan=1", "sleep_millisecs=1000")
        self.joined(self.client(1))
        status, _, err = self.run_on("wait", "--settled", "--timeout", "0.5")
        self.assertEqual(status, 1)
        self.assertIn("not yet: process", err)

    def test_pages_to_scan_bounds_all_together(self):
        """Four programs with 8,192 pages to read may read 32 of them in each 50 ms, not 4 times as many."""
        self.set_to("pages_to_scan=32", "sleep_millisecs=50", "sleep_max_millisecs=50")
        clients = [self.client(seed) for seed in (1, 2, 3, 4)]
        self.joined(*clients)
        wait_until(lambda: self.get("pages_scanned"), "something read")
        begin, before = os.times().elapsed, self.get("pages_scanned")
        subprocess.run(["sleep", "3"], check=True)
        read, passed = self.get("pages_scanned") - before, os.times().elapsed - begin
        # Reports are half a second old at most, and shares follow within as much.
        self.assertLess(read, 32 * ((passed + 1.5) / 0.05))
        self.assertGreater(read, 0)
        self.set_to("pages_to_scan=4294967295")
        self.wait_settled()
        self.assertGreaterEqual(self.get("pages_scanned"), 4 * 8 * MIB // PAGE)
        for c in clients:
            self.end_process(c)


class File(Case):
    def refuse(self, text, *says):
        path = f"{self.runtime}/file"
        with open(path, "wb") as f:
            f.write(text)
        result = self.samepage("--socket", f"{self.runtime}/x/socket", "--config", path, program=SAMEPAGED)
        self.assertEqual((result[0], result[1]), (2, ""))
        for say in says:
            self.assertIn(say, result[2])
        return path

    def test_wrong_files(self):
        self.refuse(b"run=1\nmap_percent=1000\n", "file:2: ", "0 to 95")
        self.refuse(b"run=1\nrun=1\n", "file:2: run is given twice")
        self.refuse(b"# fine\n\nnonsense\n", "file:3: 'nonsense' is not KEY=VALUE")
        self.refuse(b"pages_shared=1\n", "counter")
        self.refuse(b"run=1\0\n", "not a text")
        self.refuse(b"#" * 70000, "too long")
        self.refuse(b"\xff\xfe=1", "unknown setting '??'")
        for path, text in ((f"{self.runtime}/none", "No such file"), (self.runtime, "Is a directory"),
                           ("", "No such file"), ("/dev/zero", "too long")):
            status, _, err = self.samepage("--config", path, program=SAMEPAGED)
            self.assertEqual(status, 2, err)
            self.assertIn(text, err)
        path = self.refuse(b"run=9\n", "0 to 2")
        status, _, err = self.samepage("--config", path, "--config", path, program=SAMEPAGED)
        self.assertEqual(status, 2)
        self.assertIn("one file only", err)

    @unittest.skipIf(os.geteuid(), "needs root for a mount namespace")
    def test_the_machines_file(self):
        """Root's daemon reads it unasked, a private one does not. In an /etc of their own."""
        script = ("mount -t tmpfs none /etc && mkdir /etc/samepage && echo run=9 >/etc/samepage/samepaged.conf && "
                  f'exec {SAMEPAGED} --socket {self.runtime}/x/socket "$@"')
        namespace = ("--mount", "sh", "-c", script, "sh")
        status, _, err = self.samepage(*namespace, program="unshare")
        self.assertEqual(status, 2, err)
        self.assertIn("/etc/samepage/samepaged.conf:1: value out of range '9' for run", err)
        # Its owner is no process: it ends as soon as it has begun.
        status, _, err = self.samepage(*namespace, "--owner-pid", "2147483647", program="unshare")
        self.assertEqual(status, 0, err)
        self.assertIn("nobody needs it any more", err)

    def test_options_win(self):
        path = f"{self.runtime}/file"
        with open(path, "w", encoding="ascii") as f:
            f.write("freeze_micros = 88\nmap_percent = 44\n")
        socket = self.daemon(None, "--set", "map_percent=55", "--config", path)
        for key, value in (("freeze_micros", 88), ("map_percent", 55), ("run", 1)):
            self.assertEqual(self.samepage("get", "--socket", socket, key), (0, f"{value}\n", ""))


if __name__ == "__main__":
    tap.main()
