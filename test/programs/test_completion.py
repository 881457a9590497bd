#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Completion, as it is installed, by the TAB key of real shells, against what the programs say of themselves."""

import os
import re
import subprocess
import tempfile
import unittest

import tap
from cli_helper import BUILD, SAMEPAGE, SAMEPAGED
from terminal import Terminal
from test_manual import commands, options_in_help, output, table_in_help

PROMPT = "ready>"
ROWS, COLUMNS = 120, 200


class Shell:
    """A shell that completes as an installation makes it do so."""

    def __init__(self, words, environment, lines):
        self.terminal = Terminal(words, environment, ROWS, COLUMNS)
        self.terminal.wait_text(PROMPT)
        self.n = 0
        # Away from where files would be offered, too.
        for line in ("cd", *lines):
            self.run(line)

    def run(self, line):
        """Until it is done, which the shell says: it reads keys only then."""
        self.n += 1
        self.terminal.press(f"{line}\recho done''-{self.n}\r")
        self.terminal.wait(lambda shown: f"done-{self.n}" in shown, line)

    def complete(self, line):
        """What the line is after a TAB, and what there is to choose from. The line is a comment when it is run."""
        self.run("clear")
        self.run(f"{line}\t\x01#")
        lines = self.terminal.lines()
        at = [i for i, shown in enumerate(lines) if shown.startswith(PROMPT) and "echo done" not in shown]
        final = [i for i in at if lines[i].startswith(f"{PROMPT} #")]
        words = [word for i in range(at[0] + 1, final[-1]) if i not in at for word in lines[i].split()]
        return lines[final[-1]][len(PROMPT) + 2:], set(words)


class Completion:
    """The same for each shell."""

    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory(prefix="sp-completion-")
        output("meson", "install", "-C", BUILD, "--no-rebuild", "--tags", "completion", "--destdir",
               cls.directory.name)
        share = output("find", cls.directory.name, "-type", "d", "-name", "share").splitlines()[0]
        os.mkdir(f"{cls.directory.name}/bin")
        for program in (SAMEPAGE, SAMEPAGED):
            os.symlink(program, f"{cls.directory.name}/bin/{os.path.basename(program)}")
        environment = {"PATH": f"{cls.directory.name}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": cls.directory.name,
                       "LC_ALL": "C", "INPUTRC": "/dev/null",
                       "XDG_DATA_DIRS": f"{share}:/usr/share", "PS1": f"{PROMPT} "}
        cls.shell = cls.start(share, environment)

    @classmethod
    def tearDownClass(cls):
        cls.shell.terminal.close()
        cls.directory.cleanup()

    def choice(self, line, *expected):
        self.assertEqual(self.shell.complete(line)[1], set(expected), line)

    def becomes(self, line, expected):
        self.assertEqual(self.shell.complete(line), (expected, set()))

    def test_commands(self):
        found = self.shell.complete("samepage ")[1] - {"--help", "--version"}
        self.assertEqual(found, commands())
        self.becomes("samepage est", "samepage estimate")
        self.assertEqual(self.shell.complete("samepage help ")[1], commands())

    def test_options(self):
        for command in sorted(commands()):
            found = {word for word in self.shell.complete(f"samepage {command} --")[1] if word.startswith("--")}
            there = {f"--{name}" for name in options_in_help(command)}
            if len(there) > 1:  # one alone is put into the line
                self.assertEqual(found, there, command)
            else:
                self.becomes(f"samepage {command} --", f"samepage {command} {min(there)}")
        found = {word for word in self.shell.complete("samepaged --")[1] if word.startswith("--")}
        self.assertEqual(found, {f"--{name}" for name in options_in_help("samepaged")})

    def test_settings(self):
        names = set(table_in_help("set", "Settings"))
        for line in ("samepage set ", "samepage run --set ", "samepaged --set ", "samepage set run=1 "):
            found = {word.rstrip("=") for word in self.shell.complete(line)[1]}
            # What is given already need not be offered again.
            self.assertEqual(found | {"run"}, names | {"run"}, line)
        self.becomes("samepage set freeze_m", "samepage set freeze_micros=")
        self.becomes("samepage set run=1 freeze_m", "samepage set run=1 freeze_micros=")
        self.choice("samepage set run=", "0", "1", "2")
        self.choice("samepage run --set run=", "0", "1", "2")
        self.becomes("samepage set freeze_micros=", "samepage set freeze_micros=")

    def test_keys(self):
        names = set(table_in_help("set", "Settings")) | set(table_in_help("get", "Counters"))
        self.assertEqual(self.shell.complete("samepage get ")[1], names)
        self.choice("samepage get pages_sh", "pages_shared", "pages_sharing")

    def test_processes(self):
        # The first digits of our number: it is offered, in whatever company.
        for line in ("samepage estimate ", "samepage status --mappings "):
            pid = str(os.getpid())
            text, words = self.shell.complete(line + pid[:-1])
            self.assertIn(pid, words | set(text.split()), line)

    def test_commands_to_run(self):
        for line in ("samepage run samepa", "samepage run --all samepa", "samepage run -- samepa",
                     "samepage run --socket x -- samepa", "samepage estimate -- samepa",
                     "samepage estimate --after 1 -- samepa"):
            self.assertEqual(self.shell.complete(line)[1], {"samepage", "samepaged"}, line)
        self.becomes("samepage run -- samepage stat", "samepage run -- samepage status")

    def test_arguments(self):
        os.mkdir(f"{self.directory.name}/only")
        os.mkdir(f"{self.directory.name}/only/directory")
        for line in ("samepage top --socket ", "samepage top --socket=", "samepage estimate --html ",
                     "samepaged --config ", "samepaged --ksm-files ", "samepage run ls "):
            line += f"{self.directory.name}/only/"
            self.becomes(f"{line}dir", f"{line}directory/")
        self.becomes("samepage get --user roo", "samepage get --user root")
        columns = set(re.findall(r"^  \w  (\w+): ", output(SAMEPAGE, "help", "top"), re.M))
        self.assertIn("saved", columns)
        self.choice("samepage top --sort ", *columns)
        libraries = self.shell.complete("samepage run --heap ")[1]
        self.assertIn("none", libraries)
        for library in libraries:
            result = subprocess.run([SAMEPAGE, "run", "--heap", library, "--socket", "/none", "true"],
                                    capture_output=True, text=True, check=False)
            self.assertNotIn("option '--heap'", result.stderr)

    def test_nothing_to_offer(self):
        for line in ("samepage doctor ", "samepage no_such_command ", "samepage wait --timeout "):
            # zsh begins an option where nothing else can come.
            self.assertEqual(re.sub(" -?$", "", self.shell.complete(line)[0]), line.rstrip())


class Bash(Completion, unittest.TestCase):
    @classmethod
    def start(cls, share, environment):
        return Shell(["bash", "--norc", "-i"], environment, [
            "bind 'set show-all-if-ambiguous on'", "bind 'set page-completions off'", "bind 'set bell-style none'",
            "bind 'set completion-query-items -1'", cls.load(share)])

    @staticmethod
    def load(share):
        return ". /usr/share/bash-completion/bash_completion"


class BashAlone(Bash):
    """Without the package bash-completion."""

    @staticmethod
    def load(share):
        return f". {share}/bash-completion/completions/samepage"

    def test_commands_to_run(self):
        self.assertEqual(self.shell.complete("samepage run -- samepa")[1], {"samepage", "samepaged"})


class Zsh(Completion, unittest.TestCase):
    @classmethod
    def start(cls, share, environment):
        return Shell(["zsh", "-f", "-i"], environment, [
            "unsetopt always_last_prompt auto_menu list_ambiguous prompt_sp list_types beep auto_remove_slash",
            "setopt interactive_comments list_packed; LISTMAX=100000", f"fpath=({share}/zsh/site-functions $fpath)",
            f"autoload -U compinit; compinit -u -d {cls.directory.name}/dump",
            "zstyle ':completion:*' verbose no; zstyle ':completion:*' menu no"])


if __name__ == "__main__":
    tap.main()
