#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The manual pages, as they are installed: there is one for everything, and they list what the programs do."""

import glob
import os
import re
import subprocess
import tempfile
import unittest

import tap
from cli_helper import BUILD, SAMEPAGE, SAMEPAGED

HEADER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../include/samepage/samepage.h")
IN_SAMEPAGE_1 = {"help", "version"}  # too little for a page


def output(*words, **options):
    return subprocess.run(words, check=True, capture_output=True, text=True, **options).stdout


def help_of(command):
    return output(SAMEPAGED, "--help") if command == "samepaged" else output(SAMEPAGE, "help", command)


def commands():
    text = output(SAMEPAGE, "help").split("Commands:\n")[1].split("\n\n")[0]
    return {line.split()[0] for line in text.splitlines()}


def options_in_help(command):
    return set(re.findall(r"^ {2,6}(?:-\w, )?--([a-z-]+)", help_of(command), re.M))


def table_in_help(command, title):
    """Names below a title, with what stands in brackets behind them."""
    text = help_of(command).split(f"\n{title}:\n")[1].split("\n\n")[0]
    return dict(re.findall(r"^  (\w+)\S* +\((\w+)", text, re.M))


class Manual(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory(prefix="sp-man-")
        output("meson", "install", "-C", BUILD, "--no-rebuild", "--tags", "man", "--destdir", cls.directory.name)
        cls.pages = {os.path.basename(p): p for p in glob.glob(f"{cls.directory.name}/**/man?/*.?", recursive=True)}

    @classmethod
    def tearDownClass(cls):
        cls.directory.cleanup()

    def render(self, page):
        self.assertIn(page, self.pages, f"there is no page: write man/{page}.in and name it in man/meson.build")
        raw = output("mandoc", "-T", "utf8", "-O", "width=200", self.pages[page])
        return re.sub(".\b", "", raw)

    def section(self, page, title):
        """Its lines, without those of the next section."""
        text = self.render(page)
        self.assertIn(f"\n{title}\n", text, f"{page} has no section {title}")
        return re.split(r"\n(?=[A-Z])", text.split(f"\n{title}\n", 1)[1])[0]

    def test_a_page_for_everything(self):
        expected = {f"samepage-{c}.1" for c in commands() - IN_SAMEPAGE_1}
        expected |= {"samepage.1", "samepaged.8", "samepaged.conf.5", "libsamepage.3"}
        missing, left = expected - set(self.pages), set(self.pages) - expected
        self.assertFalse(missing, f"missing: write man/PAGE.in and name it in man/meson.build: {missing}")
        self.assertFalse(left, f"pages of what is not there any more: {left}")

    def test_places(self):
        for page, path in self.pages.items():
            self.assertEqual(os.path.basename(os.path.dirname(path)), f"man{page[-1]}")
            self.assertRegex(output("man", "-l", path, env=dict(os.environ, MANPAGER="cat", LC_ALL="C.UTF-8")), "NAME")

    def test_form(self):
        for page, path in self.pages.items():
            with self.subTest(page=page):
                lint = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", path], capture_output=True, text=True,
                                      check=False)
                self.assertEqual((lint.stdout, lint.stderr), ("", ""))
                with open(path, encoding="utf-8") as f:
                    self.assertNotRegex(f.read(), r'(?m)^\.\\" @(?!\s)', "a line that was not filled in")

    def test_commands(self):
        tags = set(re.findall(r"^     ([a-z]+)\b", self.section("samepage.1", "DESCRIPTION"), re.M))
        self.assertEqual(commands() - tags, set(), "not in samepage(1)")

    def test_options(self):
        for command in sorted(commands() - IN_SAMEPAGE_1 | {"samepaged"}):
            page = "samepaged.8" if command == "samepaged" else f"samepage-{command}.1"
            with self.subTest(page=page):
                listed = self.render(page).split("The options are as follows:\n", 1)
                self.assertEqual(len(listed), 2, f"{page} lists no options")
                listed = set(re.findall(r"^     (?:-\w, )?--([a-z-]+)", re.split(r"\n(?=[A-Z])", listed[1])[0], re.M))
                there = options_in_help(command)
                self.assertEqual(there - listed, set(), "options that the page does not list")
                self.assertEqual(listed - there, set(), "options that the page lists and --help does not")

    def test_options_in_sentences(self):
        known = {"help", "version"}.union(*map(options_in_help, commands() | {"samepaged"}))
        known |= {"cflags", "libs"}  # of pkg-config
        for page in self.pages:
            said = set(re.findall(r"(?<![\w-])--([a-z][a-z-]*[a-z])", self.render(page)))
            self.assertEqual(said - known, set(), f"{page} speaks of options that no command has")

    def test_settings(self):
        settings = table_in_help("set", "Settings")
        for page in ("samepaged.conf.5", "samepaged.8", "samepage-run.1", "samepage-get.1", "samepage-set.1"):
            listed = dict(re.findall(r"^     (\w+) *\n? +\((\w+), [^;()]+; default [\w-]+\)",
                                     self.section(page, "SETTINGS"), re.M))
            self.assertEqual(listed, settings, page)

    def test_counters(self):
        counters = table_in_help("get", "Counters")
        self.assertIn("pages_sharing", counters)
        for page in ("samepage-status.1", "samepage-get.1"):
            listed = dict(re.findall(r"^     (\w+) *\n? +\((\w+)\)", self.section(page, "COUNTERS"), re.M))
            self.assertEqual(listed, counters, page)

    def test_example_of_the_file(self):
        """What the page gives as a file is one."""
        example = "\n".join(line.strip() for line in self.section("samepaged.conf.5", "EXAMPLES").splitlines())
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as f:
            # With a socket that cannot be: it is tried when the file was read.
            for text, wrong in ((example, False), ("\nno_such_key=1\n", True)):
                f.write(text)
                f.flush()
                result = subprocess.run([SAMEPAGED, "--config", f.name, "--socket", "/proc/none/socket"],
                                        capture_output=True, text=True, check=False)
                self.assertEqual((f.name in result.stderr, "/proc/none/socket" in result.stderr), (wrong, not wrong),
                                 result.stderr)

    def test_library(self):
        with open(HEADER, encoding="utf-8") as f:
            source = f.read()
        calls = set(re.findall(r"\b(samepage_[a-z_]+)\(", re.sub(r"/\*.*?\*/", "", source, flags=re.S)))
        self.assertIn("samepage_register", calls)
        shown = self.section("libsamepage.3", "CALLS")
        self.assertEqual({c for c in calls if f"{c}(" not in shown}, set())
        for word in set(re.findall(r"\b(SAMEPAGE_[A-Z_]+|struct samepage_\w+)\b", source)):
            if word not in ("SAMEPAGE_PUBLIC", "SAMEPAGE_CHECK", "SAMEPAGE_SAMEPAGE_H"):
                self.assertIn(word, self.render("libsamepage.3"))

    def test_references(self):
        for page, path in self.pages.items():
            with open(path, encoding="utf-8") as f:
                for name, section in re.findall(r"^\.Xr (\S*samepage\S*) (\d)", f.read(), re.M):
                    self.assertIn(f"{name}.{section}", self.pages, f"in {page}")


if __name__ == "__main__":
    if not os.path.exists(f"{BUILD}/man"):
        print("1..0 # SKIP no manual pages in a build for a sanitizer")
    else:
        tap.main()
