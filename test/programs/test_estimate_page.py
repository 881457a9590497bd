#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""samepage estimate --html: the page in a real browser, and what becomes of the file when something goes wrong."""

import html.parser
import json
import os
import re
import shutil
import stat
import subprocess
import tempfile
import unittest

import tap
from cli_helper import BUILD, SAMEPAGE, Case

PAGES = f"{BUILD}/test/programs/estimate_pages"
CHROMIUM = shutil.which("chromium")


class Dom(html.parser.HTMLParser):
    """What a browser has made of a page: how many elements with which class, data, and texts by id."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts = [], [], {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag not in ("meta", "br"):
            self.open.append((tag, attributes.get("id")))

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        for _, name in self.open:
            if name:
                self.texts[name] = self.texts.get(name, "") + data

    def count(self, tag, kind=None):
        return sum(t == tag and (kind is None or kind in a.get("class", "").split()) for t, a in self.elements)

    def values(self, attribute):
        return [a[attribute] for _, a in self.elements if attribute in a]


class PageCase(Case):
    def setUp(self):
        super().setUp()
        self.file = f"{self.runtime}/page.html"

    def pages(self, seed, *what):
        p = self.popen(str(seed), *what, program=PAGES, stdin=subprocess.PIPE)
        self.assertEqual(p.stdout.readline(), "ready\n")
        return p

    def estimate(self, *words, **options):
        return self.samepage("estimate", "--html", self.file, *map(str, words), **options)

    def data(self):
        with open(self.file, encoding="ascii") as f:
            return json.loads(re.search(r'id="data">(.*?)</script>', f.read(), re.S)[1])


@unittest.skipUnless(CHROMIUM, "no chromium: apt-get install chromium")
class Browser(PageCase):
    def draw(self):
        """The DOM after all scripts have run; nothing may have been written to the console."""
        with tempfile.TemporaryDirectory(prefix="sp-chromium-") as profile:
            p = subprocess.run([CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
                                f"--user-data-dir={profile}", "--dump-dom", f"file://{self.file}"],
                               capture_output=True, text=True, errors="replace", timeout=120,
                               env={**self.environment, "HOME": profile})
        self.assertEqual(p.returncode, 0, p.stderr)
        self.assertEqual([line for line in p.stderr.splitlines() if "CONSOLE" in line], [])
        dom = Dom(p.stdout)
        self.assertEqual(dom.values("data-drawn"), ["all"])
        return dom

    def test_console_is_watched(self):
        """What the other cases rely on: a mistake in a script is seen."""
        with open(self.file, "w", encoding="ascii") as f:
            f.write("<!DOCTYPE html><body data-drawn=all><script>nothing.there()</script>")
        with self.assertRaises(AssertionError):
            self.draw()

    def test_picture(self):
        programs = [self.pages(n, "common:1000", "zero:300", f"unique:{500 * n}") for n in (1, 2, 3)]
        status, out, err = self.estimate(*(p.pid for p in programs))
        self.assertEqual((status, err), (0, ""))
        dom, data = self.draw(), self.data()
        self.assertRegex(dom.texts["answer"], r"^Merging would save 1\d\.\d MiB of 2\d\.\d MiB \(\d+ %\)$")
        self.assertEqual(re.search(r"save (\S+ MiB)", out)[1], re.search(r"save (\S+ MiB)", dom.texts["answer"])[1])
        cells = [int(v) for v in dom.values("data-bytes")]
        self.assertEqual(len(cells), 9)
        for at in (1, 2, 5):
            self.assertAlmostEqual(cells[at], 1000 * 4096, delta=64 * 4096)
        self.assertEqual(cells[1], cells[3])  # symmetric
        self.assertEqual(dom.count("div", "bar"), 3)
        self.assertEqual(dom.count("span", "zero"), 4)  # three bars and the key
        self.assertEqual(dom.count("span", "elsewhere"), 4)
        self.assertEqual(dom.count("div", "strip"), len(data["mappings"]))
        self.assertEqual(len(data["mappings"]), 9)
        for p in programs:
            self.assertIn(f"estimate_pages {p.pid}", dom.texts["processes"])
            self.assertIn(f"estimate_pages {p.pid}", dom.texts["matrix"])
        for kind in ("anonymous", "stack", "file"):
            self.assertIn(kind, dom.texts["kinds"])

    def test_sample(self):
        a = self.pages(1, "unique:5000")
        self.assertEqual(self.estimate("--sample", "1/8", a.pid)[0], 0)
        dom = self.draw()
        self.assertIn(", give or take ", dom.texts["answer"])
        self.assertIn("a sample of 1/8", dom.texts["reading"])

    def test_nothing_to_save(self):
        a = self.popen("1000", program="/bin/sleep")
        self.assertEqual(self.estimate(a.pid)[0], 0)
        dom = self.draw()
        self.assertEqual(dom.texts["mappings-note"], "There are none.")
        self.assertEqual(len(dom.values("data-bytes")), 1)

    def test_more_processes_than_a_matrix_holds(self):
        many = [self.popen("1000", program="/bin/sleep") for _ in range(110)]
        self.assertEqual(self.estimate(*(p.pid for p in many))[0], 0)
        dom = self.draw()
        self.assertEqual(len(dom.values("data-bytes")), 64 * 64)
        self.assertIn("Shown are the 64 processes of 110", dom.texts["matrix-note"])
        self.assertIn("and 10 more", dom.texts["processes"])

    def test_names_are_never_html(self):
        names = ["</script><b>x", "<!--", "<img src=x>", "\udcff\udcfe&amp;", '"\'\\']
        programs = [self.pages(n, "twins:300", f"name:{name}") for n, name in enumerate(names)]
        self.assertEqual(self.estimate(*(p.pid for p in programs))[0], 0)
        dom = self.draw()
        self.assertEqual((dom.count("b"), dom.count("img")), (0, 0))
        for p, name in zip(programs, names):
            shown = "??&amp;" if "amp" in name else name
            self.assertIn(f"{shown} {p.pid}", dom.texts["processes"])


class File(PageCase):
    def setUp(self):
        super().setUp()
        self.a = self.pages(1, "twins:100")

    def left(self):
        return sorted(os.listdir(os.path.dirname(self.file)))

    def old(self, text="old"):
        with open(self.file, "w", encoding="ascii") as f:
            f.write(text)

    def assertOld(self):
        with open(self.file, encoding="ascii") as f:
            self.assertEqual(f.read(), "old")

    def test_needs_nothing_else(self):
        self.assertEqual(self.estimate(self.a.pid)[0], 0)
        with open(self.file, encoding="ascii") as f:
            page = f.read()
        self.assertNotRegex(page, r"https?:|\ssrc=|\shref=|@import|url\(|@DATA@")
        self.assertIn("default-src 'none'", page)

    def test_same_as_json(self):
        status, out, _ = self.estimate("--json", self.a.pid)
        self.assertEqual((status, json.loads(out)), (0, self.data()))

    def test_replaces(self):
        self.old()
        os.chmod(self.file, 0o640)
        self.assertEqual(self.estimate(self.a.pid)[0], 0)
        self.assertEqual(len(self.data()["processes"]), 1)
        self.assertEqual(stat.S_IMODE(os.stat(self.file).st_mode), 0o640)
        self.assertEqual(self.left(), ["page.html"])

    def test_new_one_is_as_any_new_file(self):
        self.estimate(self.a.pid, preexec_fn=lambda: os.umask(0o027))
        self.assertEqual(stat.S_IMODE(os.stat(self.file).st_mode), 0o640)

    def test_link_is_followed(self):
        self.old()
        link = f"{self.runtime}/link"
        os.symlink("page.html", link)
        self.assertEqual(self.samepage("estimate", "--html", link, str(self.a.pid))[0], 0)
        self.assertTrue(os.path.islink(link))
        self.assertEqual(len(self.data()["processes"]), 1)

    def test_relative_path(self):
        self.assertEqual(self.samepage("estimate", "--html", "page.html", str(self.a.pid), cwd=self.runtime)[0], 0)
        self.assertEqual(len(self.data()["processes"]), 1)

    def test_no_place_for_it(self):
        """Said before anything is read."""
        for path, why in ((f"{self.runtime}/none/page.html", "No such file or directory"),
                          (self.runtime, "Is a directory"), (f"{self.file}/x", "No such file or directory")):
            with self.subTest(path=path):
                result = self.samepage("estimate", "--html", path, str(self.a.pid))
                self.assertFailure(result, 1, f"cannot write {path}: {why}")
                self.assertEqual(result[1], "")

    def test_not_allowed(self):
        if os.geteuid():
            self.skipTest("needs root, to become somebody else")
        self.old()
        result = self.samepage_of_nobody("estimate", "--html", self.file, str(self.a.pid))
        self.assertFailure(result, 1, f"cannot write {self.file}: Permission denied")
        self.assertOld()

    def test_file_too_large(self):
        """The old page stays whole, and the report is printed all the same."""
        self.old()
        p = self.popen("-c", 'trap "" XFSZ; ulimit -f 4; exec "$0" "$@"', SAMEPAGE, "estimate", "--html", self.file,
                       str(self.a.pid), program="/bin/bash")
        out, err = p.communicate(timeout=60)
        self.assertEqual(p.returncode, 1)
        self.assertIn("Merging would save", out)
        self.assertIn(f"cannot write {self.file}: File too large", err)
        self.assertOld()
        self.assertEqual(self.left(), ["page.html"])

    def test_full_disk(self):
        if os.geteuid():
            self.skipTest("needs root, for a small disk")
        disk = f"{self.runtime}/disk"
        os.mkdir(disk)
        script = ('mount -t tmpfs -o size=8k none "$1" && cd "$1" && echo -n old >page.html && '
                  '"$0" estimate --html page.html "$2"; echo "status $?"; cat page.html; echo; ls')
        p = self.popen("-m", "/bin/sh", "-c", script, SAMEPAGE, disk, str(self.a.pid), program="/usr/bin/unshare")
        out, err = p.communicate(timeout=60)
        if "status" not in out or "mount" in err:
            self.skipTest("no mount namespace here: " + err.strip())
        self.assertIn("cannot write page.html: No space left on device", err)
        self.assertTrue(out.endswith("status 1\nold\npage.html\n"), out)

    def test_devices_are_written_as_they_are(self):
        full = f"{self.runtime}/full"
        os.symlink("/dev/full", full)
        result = self.samepage("estimate", "--html", full, str(self.a.pid))
        self.assertFailure(result, 1, f"cannot write {full}: No space left on device")
        self.assertTrue(os.path.islink(full))
        link = f"{self.runtime}/stdout"  # as /dev/stdout is, which must not suffer if this goes wrong
        os.symlink("/proc/self/fd/1", link)
        status, out, _ = self.samepage("estimate", "--html", link, str(self.a.pid))
        self.assertEqual((status, os.path.islink(link)), (0, True))
        self.assertIn("<!DOCTYPE html>", out)


if __name__ == "__main__":
    tap.main()
