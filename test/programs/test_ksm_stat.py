#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""samepage status --ksm-stat: of a process, what the kernel's ksm_stat says of one that its KSM merges."""

import json
import os
import subprocess
import unittest

import tap
from cli_helper import Case, wait_until

KERNEL = "/proc/self/ksm_stat"
SAME, ZEROS, OWN = 512, 256, 128
# Advises pages that are all the same, zeros, and pages that are all different, and reads them; then what it is told.
PROGRAM = f"""
import ctypes, mmap, sys
def area(data):
    m = mmap.mmap(-1, len(data), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    m[:] = data
    m.madvise(mmap.MADV_MERGEABLE)
    return m
keep = [area(b"samepage" * ({SAME} * 512)), area(bytes({ZEROS} * 4096)),
        area(b"".join(b"%08d" % i * 512 for i in range({OWN})))]
print("ready", flush=True)
for line in sys.stdin:
    if line == "all\\n":
        print(ctypes.CDLL(None).prctl(67, 1, 0, 0, 0), flush=True)
    elif line == "write\\n":
        keep[0][0] += 1
        print(keep[0][4096:8192] == b"samepage" * 512, flush=True)
    elif line == "read\\n":
        print(sum(len(m[:]) for m in keep), flush=True)
"""


def file_pages(pid, start, end):
    """Pages of the range that the page tables have from a file (bit 61 of pagemap): not copied since."""
    with open(f"/proc/{pid}/pagemap", "rb") as f:
        f.seek(start // 4096 * 8)
        entries = f.read((end - start) // 4096 * 8)
    return sum(entries[i + 7] >> 5 & 1 for i in range(0, len(entries), 8))


class KsmStat(Case):
    def stat(self, pid, *words):
        return self.samepage("status", "--ksm-stat", str(pid), *words)

    def fields(self, pid):
        status, out, err = self.stat(pid, "--json")
        self.assertIn((status, err), ((0, ""), (1, err)))
        return json.loads(out) if status == 0 else {}

    def start(self, *options):
        p = self.popen("run", "--advised", "--set", "worker_start_kbytes=0,sleep_millisecs=5,sleep_max_millisecs=20",
                       *options, "--", "/usr/bin/python3", "-c", PROGRAM, stdin=subprocess.PIPE)
        self.assertEqual(p.stdout.readline(), "ready\n")
        return p

    def tell(self, p, word):
        p.stdin.write(word + "\n")
        p.stdin.flush()
        return p.stdout.readline()

    def test_merged(self):
        p = self.start()

        def merged():
            f = self.fields(p.pid)
            return f if (f.get("ksm_merging_pages"), f.get("ksm_zero_pages")) == (SAME, ZEROS) else None
        f = wait_until(merged, "the merge")
        wait_until(lambda: self.fields(p.pid)["ksm_rmap_items"] == SAME + OWN, "what is known besides")
        self.assertEqual(self.tell(p, "write"), "True\n")
        self.assertEqual(self.fields(p.pid)["ksm_merging_pages"], SAME - 1)
        self.check_mappings(p, SAME - 1)
        self.assertLess(f["ksm_process_profit"], (SAME + ZEROS) * 4096)
        self.assertEqual((f["ksm_merge_any"], f["ksm_mergeable"]), (False, True))
        self.assertEqual(self.tell(p, "all"), "0\n")
        self.assertTrue(self.fields(p.pid)["ksm_merge_any"])
        p.stdin.close()
        self.assertEqual(p.wait(60), 0)
        self.assertFailure(self.stat(p.pid), 1, "there is none")

    def check_mappings(self, p, pages):
        """What smaps calls KSM, mapping by mapping: as the page tables have it once all of it has been read."""
        self.assertEqual(self.tell(p, "read"), f"{(SAME + ZEROS + OWN) * 4096}\n")
        found = json.loads(self.samepage("status", "--mappings", str(p.pid), "--json")[1])
        merged = [m for m in found["mappings"] if m["merged"]]
        self.assertEqual(sum(m["ksm_bytes"] for m in found["mappings"]), pages * 4096)
        self.assertEqual(found["ksm_bytes"], pages * 4096)
        self.assertGreater(len(merged), 0)
        for m in merged:
            self.assertEqual(m["ksm_bytes"], 4096 * file_pages(p.pid, m["start"], m["end"]))
        text = self.samepage("status", "--mappings", str(p.pid))[1]
        kbytes = [int(line.rsplit(" ", 2)[1]) for line in text.splitlines() if "KSM: " in line]
        self.assertEqual(kbytes, [m["ksm_bytes"] // 1024 for m in merged])

    def test_format_is_the_kernels(self):
        status, out, err = self.stat(os.getpid())
        self.assertEqual((status, err), (0, ""))
        self.assertIn("ksm_merging_pages 0\n", out)
        self.assertIn("ksm_mergeable: no\n", out)
        if not os.path.exists(KERNEL):
            self.skipTest("this kernel has no ksm_stat")
        with open(KERNEL, encoding="ascii") as f:
            kernels = f.read()
        def shape(text):
            return [line.split()[0] for line in text.splitlines()]
        # What a kernel before 6.18 does not have comes last there.
        self.assertEqual([w for w in shape(out) if w in shape(kernels)], shape(kernels))

    def test_wrong(self):
        for text in ("", "x", "0", "-1", "1x", "99999999999"):
            self.assertUsage(self.stat(text), "is no process number", "status")
        self.assertUsage(self.stat("1", "--mappings", "1"), "either", "status")
        self.assertFailure(self.stat(2 ** 22 + 1), 1, "there is none")
        p = self.start()
        wait_until(lambda: self.fields(p.pid), "the daemon's knowledge")
        other = self.daemon()
        self.assertFailure(self.stat(p.pid, "--socket", other), 1, "no daemon that was asked knows it")

    @unittest.skipIf(os.geteuid(), "needs root to be another user")
    def test_of_others(self):
        status, out, err = self.samepage_of_nobody("status", "--ksm-stat", str(os.getpid()))
        self.assertEqual((status, out), (1, ""))
        self.assertIn("Permission denied", err)


if __name__ == "__main__":
    tap.main()
