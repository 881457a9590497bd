#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""merge_across_nodes, on real processes whose memory is taken to lie on this or that node (SAMEPAGE_SIMULATE_NODE): who
shares with whom, and when it can be changed."""

import errno
import os
import subprocess
import unittest

import tap
from cli_helper import wait_until
from test_cli_control import MIB, PAGE, Control
from test_ksm_files import outcome

SIZE = 8 * MIB


class OnNodes(Control):
    def on_node(self, node, *seeds):
        self.set(SAMEPAGE_SIMULATE_NODE=str(node))
        return self.client(*seeds)

    def settle(self, *programs):
        self.joined(*programs)
        self.wait_settled()

    def shares(self, *programs):
        """All of each program's memory."""
        return all(self.shared(p) == SIZE for p in programs)

    def make_private(self):
        self.set_to("run=2")
        wait_until(lambda: self.get("pages_shared") == 0, "all is private again")

    def check(self, programs):
        for p in programs:
            self.tell(p, "check 0", "True")


class Nodes(OnNodes):
    def counts(self):
        return round(self.get("pages_shared") * PAGE / SIZE), round(self.get("pages_sharing") * PAGE / SIZE)

    def four(self):
        """Two on each of two nodes; one on a third; one of which the kernel says where it is, on a machine with one."""
        programs = [self.on_node(n, 1) for n in (0, 1, 0, 1, 2)]
        del self.environment["SAMEPAGE_SIMULATE_NODE"]
        programs.append(self.client(1))
        self.settle(*programs)
        return programs

    def test_apart(self):
        self.set_to("merge_across_nodes=0")
        programs = self.four()
        self.assertEqual(self.shared(programs[4]), 0)
        self.assertTrue(self.shares(*programs[:4]))
        if not os.path.exists("/sys/devices/system/node/node1"):
            self.assertTrue(self.shares(programs[5]))
            self.assertEqual(self.counts(), (2, 3))
        # One that comes to the third, and zeros, which lie nowhere.
        late = self.on_node(2, 1, 0)
        self.tell(programs[1], "map 0", "mapped")
        self.settle(late)
        wait_until(lambda: self.shares(programs[4], late), "the two of the third node share")
        wait_until(lambda: self.get("ksm_zero_pages") == 2 * SIZE // PAGE, "all zeros are given back")
        self.check([*programs, late])

    def test_together(self):
        programs = self.four()
        self.assertEqual(self.counts(), (1, 5))
        self.assertTrue(self.shares(*programs))
        self.check(programs)

    def test_changed(self):
        a, b = self.on_node(0, 1), self.on_node(1, 1)
        self.settle(a, b)
        self.assertEqual(self.counts(), (1, 1))
        self.assertFailure(self.run_on("set", "merge_across_nodes=0", "map_percent=33"), 1,
                           "merge_across_nodes cannot be changed while pages are shared", "run=2")
        self.assertEqual((self.get("merge_across_nodes"), self.get("map_percent")), (1, 60))
        self.set_to("merge_across_nodes=1")
        self.make_private()
        self.set_to("merge_across_nodes=0", "run=1")
        for p in (a, b):
            self.tell(p, "map 2", "mapped")
        c = self.on_node(1, 2)
        self.settle(c)
        self.assertEqual(self.counts(), (1, 1))
        self.assertTrue(self.shares(b, c))
        self.assertEqual(self.shared(a), 0)
        self.assertFailure(self.run_on("set", "merge_across_nodes=1"), 1, "cannot be changed while pages are shared")
        self.check((a, b, c))

    def test_known_before(self):
        """What was asked about by one rule, and is alone, is asked about anew by the other."""
        a, b = self.on_node(0, 1), self.on_node(1, 2)
        self.settle(a, b)
        self.assertEqual(self.counts(), (0, 0))
        self.set_to("merge_across_nodes=0")
        c = self.on_node(0, 1, 2)
        self.settle(c)
        wait_until(lambda: self.shares(a), "what is on its node")
        self.assertEqual(self.shared(b), 0)
        self.end_process(c)
        self.make_private()
        self.set_to("merge_across_nodes=1", "run=1")
        d = self.on_node(0, 2)
        self.settle(d)
        wait_until(lambda: self.shares(b, d), "across nodes")
        self.check((a, b, d))


@unittest.skipIf(os.geteuid() or not os.path.exists("/dev/fuse"), "needs root and /dev/fuse")
class File(OnNodes):
    def setUp(self):
        super().setUp()
        self.end_process(self.daemon_process)
        directory = f"{self.runtime}/ksm"
        os.mkdir(directory)
        self.addCleanup(lambda: subprocess.run(["umount", "-l", directory], stderr=subprocess.DEVNULL, check=False))
        self.daemon(self.socket, "--set", "sleep_millisecs=5,sleep_max_millisecs=20", "--ksm-files", directory)
        self.path = f"{directory}/merge_across_nodes"

    def test_errors_are_the_kernels(self):
        """Its EBUSY, too, which the kernel's own file has only while it shares something."""
        self.settle(self.on_node(0, 1), self.on_node(1, 1))
        self.assertEqual([outcome(self.path, text) for text in ("0", "1", "2")], [errno.EBUSY, 0, errno.EINVAL])
        self.make_private()
        self.assertEqual(outcome(self.path, "0\n"), 0)
        self.assertEqual(self.get("merge_across_nodes"), 0)


if __name__ == "__main__":
    tap.main()
