#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""samepaged --metrics: what a real parser makes of it, over TCP and a Unix socket, and who holds whom up."""

import json
import os
import resource
import socket
import stat
import subprocess
import unittest

import tap
from cli_helper import SAMEPAGED, Case, become_nobody, wait_until

# Debian's python has Debian's modules.
PARSE = """
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
print(json.dumps([[f.name, f.type, f.unit, f.documentation, [[s.name, s.labels, s.value] for s in f.samples]]
                  for f in parse(sys.stdin.read())]))
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Metrics(Case):
    def setUp(self):
        super().setUp()
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"

    def curl(self, *words):
        p = subprocess.run(["curl", "--silent", "--show-error", "--max-time", "60", *words], capture_output=True,
                           text=True, check=False)
        self.assertEqual((p.returncode, p.stderr), (0, ""))
        return p.stdout

    def families(self, *words):
        text = self.curl(*(words or (f"http://{self.address}/metrics",)))
        self.assertTrue(text.endswith("# EOF\n"))
        p = subprocess.run(["/usr/bin/python3", "-c", PARSE], input=text, capture_output=True, text=True, check=False)
        self.assertEqual(p.stderr, "")
        return {f[0]: f for f in json.loads(p.stdout)}

    def get(self, *words):
        status, out, err = self.samepage("get", "--socket", self.socket, *words)
        self.assertEqual((status, err), (0, ""))
        return out

    def start(self, address=None):
        self.socket = self.daemon(None, "--metrics", address or self.address, "--set", "sleep_millisecs=33")

    def test_over_tcp(self):
        self.start()
        self.assertEqual(self.samepage("set", "--socket", self.socket, "pages_to_scan=77")[0], 0)
        self.assertEqual(self.samepage("run", "--socket", self.socket, "--", "true")[0], 0)
        uid = {"uid": str(os.geteuid())}
        if os.geteuid() == 0:  # one's own domain, made by asking for it
            self.samepage("set", "--socket", self.socket, "--user", "0", "run=1")
        wait_until(lambda: self.families()["samepage_setting_run"][4], "a domain")
        found = self.families()
        for line in self.get().splitlines():
            name, value = line.split("=")
            family = found[f"samepage_setting_{name}"]
            self.assertEqual(family[1], "gauge")
            if value.isdigit():
                self.assertEqual(family[4], [[f"samepage_setting_{name}", uid, float(value)]])
        self.assertEqual(found["samepage_setting_pages_to_scan"][4][0][2], 77.0)
        for name, kind, unit in (("pages_sharing", "gauge", ""), ("pages_scanned", "counter", ""),
                                 ("registered_bytes", "gauge", "bytes"), ("cpu_seconds", "counter", "seconds"),
                                 ("general_profit_bytes", "gauge", "bytes"), ("freeze_seconds", "summary", "seconds"),
                                 ("daemon_cpu_seconds", "counter", "seconds")):
            family = found[f"samepage_{name}"]
            self.assertEqual(family[1:3], [kind, unit])
            self.assertTrue(family[3] and family[4], name)
        header = self.curl("--head", f"http://{self.address}/metrics")
        self.assertIn("Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8", header)

    def test_what_merges_shows(self):
        self.start()
        script = ("import mmap; data = b'samepage' * (1 << 18)\n"
                  "m = mmap.mmap(-1, len(data), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
                  "m[:] = data; m.madvise(mmap.MADV_MERGEABLE); print('ready', flush=True); input()\n")
        p = self.popen("run", "--socket", self.socket, "--advised", "--", "/usr/bin/python3", "-c", script,
                       stdin=subprocess.PIPE)
        self.assertEqual(p.stdout.readline(), "ready\n")
        if os.geteuid() == 0:
            wait_until(lambda: int(self.get("pages_sharing")) == 511, "the merge")
            def shows():
                f = self.families()
                return f["samepage_pages_sharing"][4][0][2] == 511 and f["samepage_clients"][4][0][2] == 1
            wait_until(shows, "metrics that are less than a second old")
            text = self.curl(f"http://{self.address}/metrics")
            self.assertNotIn("python", text)
            self.assertNotIn(str(p.pid), text.replace(".", " ").split())
        p.communicate("\n", timeout=60)

    def test_over_a_unix_socket(self):
        path = f"{self.runtime}/metrics"
        self.start(f"unix:{path}")
        self.assertIn("samepage_daemon_resident_bytes", self.families("--unix-socket", path, "http://x/metrics"))
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        if os.geteuid() == 0:
            p = subprocess.run(["curl", "--silent", "--unix-socket", path, "http://x/metrics"],
                               preexec_fn=become_nobody, capture_output=True, check=False)
            self.assertEqual((p.returncode, p.stdout), (7, b""))
        self.daemon_process.terminate()
        self.daemon_process.wait()
        self.assertFalse(os.path.exists(path))
        # One that was killed leaves its file behind, which is no hindrance.
        self.start(f"unix:{path}")
        self.daemon_process.kill()
        self.daemon_process.wait()
        self.start(f"unix:{path}")
        self.families("--unix-socket", path, "http://x/metrics")

    def test_other_requests(self):
        self.start()
        for words, status in ((["-d", "x"], "405"), (["-X", "DELETE"], "405"), (["--head"], "200")):
            code = self.curl(*words, "-o", "/dev/null", "-w", "%{http_code}", f"http://{self.address}/metrics")
            self.assertEqual(code, status)
        for path in ("", "/metrics/x", "/../metrics%00"):
            code = self.curl("--path-as-is", "-o", "/dev/null", "-w", "%{http_code}", f"http://{self.address}{path}")
            self.assertEqual(code, "404")
        with socket.create_connection(("127.0.0.1", self.port)) as s:  # no HTTP, and more than there is room for
            try:
                s.sendall(b"\0" * 100000)
                while s.recv(4096):
                    pass
            except OSError:
                pass
        self.families()

    def test_slow_readers(self):
        """Fifty that say nothing, ask half or never read hold up nobody; nor do more than there is room for."""
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))  # of what is started from here on, too
        self.start()
        request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
        slow = []
        self.addCleanup(lambda: [s.close() for s in slow])
        def come(n):
            for i in range(n):
                s = socket.socket()
                s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
                s.connect(("127.0.0.1", self.port))
                s.sendall((b"", request[:20], request * 50)[i % 3])
                slow.append(s)
        come(50)
        self.families()
        self.assertEqual(self.get("sleep_millisecs"), "33\n")
        come(50)
        self.assertEqual(self.get("sleep_millisecs"), "33\n")
        entries = f"/proc/{self.daemon_process.pid}/fd"
        self.assertLess(len(os.listdir(entries)), 64 + 30)
        self.families()  # when the first of them have been ended
        self.assertEqual(self.samepage("run", "--socket", self.socket, "--", "echo", "x"), (0, "x\n", ""))

    def test_wrong_addresses(self):
        for address in ("", "x", "8.8.8.8:80", "0.0.0.0:80", "example.org:80", "127.0.0.1:", "127.0.0.1:x",
                        "127.0.0.1:65536", "127.0.0.1:-1", "[::]:80", "unix:", "unix:" + "x" * 108, ":80"):
            status, out, err = self.samepage("--metrics", address, program=SAMEPAGED)
            self.assertEqual((status, out), (2, ""), address)
            self.assertIn(f"--metrics {address}: ", err)

    def test_what_is_taken(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", self.port))
            s.listen()
            status, _, err = self.samepage("--socket", f"{self.runtime}/x/socket", "--metrics", self.address,
                                           program=SAMEPAGED)
        self.assertEqual(status, 1)
        self.assertIn(f"--metrics {self.address}: Address already in use", err)
        path = f"{self.runtime}/file"
        with open(path, "w", encoding="ascii") as f:
            f.write("x")
        status, _, err = self.samepage("--socket", f"{self.runtime}/x/socket", "--metrics", f"unix:{path}",
                                       program=SAMEPAGED)
        self.assertEqual(status, 1)
        self.assertIn("Address already in use", err)
        self.assertTrue(os.path.isfile(path))


if __name__ == "__main__":
    tap.main()
