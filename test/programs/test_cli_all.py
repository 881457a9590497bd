#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""`samepage run --all`: memory that nobody advised is shared, by every descendant, and nothing else changes."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import unittest

import tap
from cli_helper import NOBODY, PRELOAD, SAMEPAGE, Case, wait_until

PYTHON = "/usr/bin/python3"

# Maps memory with the content that others have, never advised; then says so, and checks it when told to.
HOLDER = """
import mmap, random, sys
data = random.Random(1).randbytes(1 << 20) * 4
m = mmap.mmap(-1, len(data), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
m.write(data)
print("loaded", flush=True)
sys.stdin.readline()
print(m[:] == data, flush=True)
"""

# Tells how old it is, in seconds, when its memory begins to be shared.
AGE = """
import mmap, os, time
with open("/proc/self/stat") as f:
    born = int(f.read().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
data = bytes(range(256)) * 4096
m = mmap.mmap(-1, len(data) * 4, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
m.write(data * 4)
while "memfd:samepage (" not in open("/proc/self/maps").read():
    time.sleep(0.005)
print(time.clock_gettime(time.CLOCK_BOOTTIME) - born)
"""

# Maps its memory in one piece, fills it, and never maps anything again.
IDLE = """
import mmap, os, sys
f = os.open(sys.argv[1], os.O_RDONLY)
m = mmap.mmap(-1, 80 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
os.readv(f, [m])
os.write(1, b"loaded\\n")
os.read(0, 1)
"""


def shared_bytes(pid):
    """How much of the process lies in mappings of a store."""
    total = 0
    try:
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as f:
            for line in f:
                if "/memfd:samepage (" in line and "rw-p" in line:
                    start, end = (int(x, 16) for x in line.split()[0].split("-"))
                    total += end - start
    except FileNotFoundError:
        pass
    return total


def registered_count(pid):
    """Mappings that are registered with a userfaultfd (write-protect mode): watched by a worker."""
    with open(f"/proc/{pid}/smaps", encoding="utf-8", errors="replace") as f:
        return sum(line.startswith("VmFlags:") and " uw" in line for line in f)


class Served(Case):
    def setUp(self):
        super().setUp()
        self.socket = self.daemon(None, "--set", "sleep_millisecs=5,sleep_max_millisecs=20")

    def holder(self, *words, script=HOLDER, command=(PYTHON, "-c")):
        p = self.popen("run", "--socket", self.socket, *words, "--", *command, script, stdin=-1)
        self.assertEqual(p.stdout.readline(), "loaded\n")
        return p

    def end(self, p, expected="True\n"):
        out, err = p.communicate("\n", timeout=60)
        self.assertEqual((p.returncode, out, err), (0, expected, ""))


class All(Served):
    def test_shares_what_nobody_advised(self):
        p = self.holder("--all")
        wait_until(lambda: shared_bytes(p.pid) >= 4 << 20, "4 MiB shared")
        self.end(p)

    def test_advised_does_not(self):
        """The other one shares by then; this one has not so much as a worker."""
        advised, every = self.holder("--advised"), self.holder("--all")
        wait_until(lambda: shared_bytes(every.pid) >= 4 << 20, "4 MiB shared")
        self.assertEqual((shared_bytes(advised.pid), registered_count(advised.pid)), (0, 0))
        self.assertEqual(len(os.listdir(f"/proc/{advised.pid}/task")), 1)
        self.end(advised)
        self.end(every)

    def test_environment_chooses_and_options_win(self):
        self.set(SAMEPAGE_SCOPE="all")
        every, advised = self.holder(), self.holder("--advised")
        wait_until(lambda: shared_bytes(every.pid) >= 4 << 20, "4 MiB shared")
        self.assertEqual(registered_count(advised.pid), 0)
        self.end(every)
        self.end(advised)

    def test_wrong_environment(self):
        for text in ("most", "ALL", "all "):
            self.set(SAMEPAGE_SCOPE=text)
            self.assertFailure(self.samepage("run", "--socket", self.socket, "--", "true"), 125, "SAMEPAGE_SCOPE",
                               "'all'", "'advised'")

    def test_small_programs_have_no_worker(self):
        for words in (("--heap=none",), ()):
            status, out, err = self.samepage("run", "--socket", self.socket, "--all", *words, "--", "/bin/sh", "-c",
                                             "ls /proc/self/task | wc -l")
            self.assertEqual((status, out.strip(), err), (0, "1", ""))

    def test_young_programs_are_left_alone(self):
        status, out, err = self.samepage("run", "--socket", self.socket, "--all", "--", PYTHON, "-c", AGE)
        self.assertEqual((status, err), (0, ""))
        self.assertGreater(float(out), 0.49)  # a clock tick less than the half second

    def test_maps_once(self):
        path = f"{self.runtime}/content"
        with open(path, "wb") as f:
            f.write(os.urandom(1 << 20) * 80)
        for heap in ("none", "mimalloc"):
            p = self.popen("run", "--socket", self.socket, "--all", f"--heap={heap}", "--", PYTHON, "-c", IDLE, path,
                           stdin=-1)
            self.assertEqual(p.stdout.readline(), "loaded\n")
            wait_until(lambda p=p: shared_bytes(p.pid) >= 79 << 20, "79 MiB shared")
            self.end(p, "")

    def test_exec_and_fork_inherit(self):
        """A shell executes a program, which forks; both halves map memory then."""
        script = "import os\nchild = os.fork()\n" + HOLDER.replace(
            'print("loaded", flush=True)', 'os.write(1, b"%d\\n" % os.getpid())').replace("sys.stdin.readline()", """
import time
go_on = (lambda: not sys.stdin.readline()) if child else (lambda: os.getppid() != 1 and not os.path.exists(STOP))
while go_on():
    time.sleep(0.02)
    mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
if not child:
    os._exit(m[:] != data)
open(STOP, "w").close()
print(os.waitpid(child, 0)[1])
""".replace("STOP", repr(self.runtime + "/stop")))
        p = self.popen("run", "--socket", self.socket, "--all", "--", "/bin/sh", "-c", f'{PYTHON} -c "$0"; exit $?',
                       script, stdin=-1)
        for pid in [int(p.stdout.readline()) for _ in range(2)]:
            wait_until(lambda pid=pid: shared_bytes(pid) >= 4 << 20, "both share")
        self.end(p, "0\nTrue\n")

    def test_forks_where_nothing_is_merged(self):
        """Also a program that the shim finds no reason to serve has all functions of the C library."""
        script = "import ctypes, os\nchild = ctypes.CDLL(None)._Fork()\nif child == 0: os._exit(3)\n" \
                 "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
        for word in ("-uSAMEPAGE_SOCKET", "SAMEPAGE_SCOPE=nonsense"):
            self.assertEqual(self.samepage("run", "--socket", self.socket, "--", "env", word, PYTHON, "-c", script),
                             (0, "3\n", ""), word)

    @unittest.skipIf(os.getuid(), "only root can become somebody else")
    def test_worker_gives_up_what_the_program_does(self):
        """The worker is no thread that the C library knows of: setgroups, setgid and setuid must take it along."""
        script = HOLDER.replace("sys.stdin.readline()", f"""
import os
sys.stdin.readline()
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
def ids(task):
    lines = open(task + "/status").read().splitlines()
    return [l.split()[1:] for l in lines if l.startswith(("Uid:", "Gid:", "Groups:"))]
# By descriptor: the worker makes room for whoever lists the directory by its path.
tasks = ["/proc/self/task/" + n for n in os.listdir(os.open("/proc/self/task", os.O_RDONLY))]
print(len(tasks), all(ids(t) == [["{NOBODY}"] * 4, ["{NOBODY}"] * 4, []] for t in tasks))
""")
        p = self.holder("--all", script=script)
        wait_until(lambda: shared_bytes(p.pid) >= 4 << 20, "4 MiB shared")
        self.end(p, "2 True\nTrue\n")

    def test_unadvised_calls_are_respected(self):
        """prctl(PR_SET_MEMORY_MERGE, 0) after 1, and MADV_UNMERGEABLE: the program knows better."""
        script = HOLDER.replace('print("loaded"', 'm.madvise(13)\nprint("loaded"')
        p, every = self.holder("--all", "--heap=none", script=script), self.holder("--all", "--heap=none")
        wait_until(lambda: shared_bytes(every.pid) >= 4 << 20, "4 MiB shared")
        self.assertLess(shared_bytes(p.pid), 4 << 20)
        self.end(p)
        self.end(every)


class Mappings(Served):
    def status(self, pid, *words):
        return self.samepage("status", "--mappings", str(pid), *words)

    def test_usage(self):
        for text in ("x", "", "-1", "0", "1x", "99999999999999"):
            self.assertUsage(self.status(text), "is no process number", "status")
        self.assertFailure(self.status(2 ** 22 + 1), 1, "there is none")

    @unittest.skipIf(os.getuid(), "an ordinary user cannot read smaps of others")
    def test_table_and_json_agree_with_the_kernel(self):
        p = self.holder("--all", "--heap=none")
        wait_until(lambda: shared_bytes(p.pid) >= 4 << 20, "4 MiB shared")
        status, out, err = self.status(p.pid, "--json")
        self.assertEqual((status, err), (0, ""))
        found = json.loads(out)
        self.assertEqual((found["pid"], found["worker"]), (p.pid, True))
        by_reason = {}
        for m in found["mappings"]:
            by_reason[m["why"]] = by_reason.get(m["why"], 0) + m["end"] - m["start"]
            self.assertEqual(m["merged"], m["why"].startswith("merged"))
            self.assertEqual(m["registered"], m["merged"] or m["why"] == "registered")
        merged = by_reason["merged: a mapping of the store"]
        self.assertGreaterEqual(merged, 4 << 20)
        for why in ("file mapping", "device, stack, vdso or other special mapping",
                    "mapped behind our back: its unmapping cannot be serialised"):
            self.assertIn(why, by_reason)
        status, out, err = self.status(p.pid)
        self.assertEqual((status, err), (0, ""))
        self.assertEqual(len(out.splitlines()), len(found["mappings"]) + 1)
        self.assertRegex(out.splitlines()[-1], r"^[\d.]+ MiB merged \([\d.]+ MiB of it not written since\), .* registered besides, .* left alone$")
        self.end(p)

    def test_without_a_worker(self):
        p = self.holder("--advised")
        status, out, err = self.status(p.pid)
        self.assertEqual((status, err), (0, ""))
        self.assertIn("eligible, but the process has no worker", out)
        self.assertTrue(out.endswith("; the process has no worker\n"), out[-100:])
        self.end(p)


# Objects of a heap, of many sizes, the same in every process; and what they say when all is read again.
OBJECTS = """
import hashlib, random, sys
r = random.Random(3)
objects = {i: {"name": f"object {i}", "text": r.randbytes(r.randrange(20, 4000))} for i in range(10000)}
def digest():
    h = hashlib.sha256()
    for o in objects.values():
        h.update(o["name"].encode() + o["text"])
    return h.hexdigest()
print("loaded", flush=True)
sys.stdin.readline()
print(digest(), flush=True)
"""
LIBRARIES = {"mimalloc": "libmimalloc.so.2", "jemalloc": "libjemalloc.so.2"}
PACKAGES = {"mimalloc": "libmimalloc2.0", "jemalloc": "libjemalloc2"}


def library_path(name):
    """None: not installed."""
    path = f"/usr/lib/x86_64-linux-gnu/{LIBRARIES[name]}"
    return path if os.path.exists(path) else None


# Has functions of the C library's names, which are for its main thread, and not before main.
OWN_FUNCTIONS = r"""
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static int started;
static void check(void) { if (!started || gettid() != getpid()) _exit(9); }
size_t strlen(const char *s) { check(); size_t n = 0; while (s[n]) n++; return n; }
int strcmp(const char *a, const char *b) { check(); while (*a && *a == *b) a++, b++; return *a - *b; }
int strncmp(const char *a, const char *b, size_t n) { check(); while (n && *a && *a == *b) a++, b++, n--; return n ? *a - *b : 0; }
int memcmp(const void *a, const void *b, size_t n) { check(); const char *x = a, *y = b; while (n && *x == *y) x++, y++, n--; return n ? *x - *y : 0; }
void *memcpy(void *to, const void *from, size_t n) { check(); for (size_t i = 0; i < n; i++) ((volatile char *)to)[i] = ((const char *)from)[i]; return to; }
void *memmove(void *to, const void *from, size_t n) { check(); volatile char *t = to; const char *f = from; if (t < f) for (size_t i = 0; i < n; i++) t[i] = f[i]; else while (n--) t[n] = f[n]; return to; }
void *memset(void *to, int c, size_t n) { check(); for (size_t i = 0; i < n; i++) ((volatile char *)to)[i] = (char)c; return to; }
/* The worker's calls of this one do no harm. */
int clock_gettime(clockid_t clock, struct timespec *t) { if (!started) _exit(7); return (int)syscall(SYS_clock_gettime, clock, t); }
int main(void) {
    started = 1;
    size_t bytes = 8 << 20;
    char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (size_t i = 0; i < bytes; i++) p[i] = (char)(i >> 13);
    for (int i = 0; i < 8; i++) /* what there is is looked at when more is mapped */
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    write(1, "loaded\n", 7);
    char c;
    while (read(0, &c, 1) == 1 && c != '\n') ;
    for (size_t i = 0; i < bytes; i++) if (p[i] != (char)(i >> 13)) _exit(8);
    write(1, "True\n", 5);
    _exit(0);
}
"""

PLUGIN = r"""
#include <stdlib.h>
void plugin_free(void *p) { free(p); }
"""

# Opens a library that is found by the program's own RUNPATH only, and lets it free what the program has allocated.
DEEPBIND = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(void) {
    void *l = dlopen("plugin.so", RTLD_NOW | RTLD_DEEPBIND);
    if (!l) return fprintf(stderr, "%s\n", dlerror()), 3;
    void (*plugin_free)(void *) = (void (*)(void *))dlsym(l, "plugin_free");
    for (int i = 0; i < 1000; i++) {
        char *p = malloc(100 + i);
        memset(p, 1, 100 + i);
        plugin_free(p);
    }
    return 0;
}
"""


# Writes behind the end of a block, where a sanitizer with its own malloc would notice; and says what it was left with.
OVERFLOW = r"""
#include <stdio.h>
#include <stdlib.h>
int main(int n, char **words) {
    volatile char *p = malloc(100);
    printf("%s %s\n", words[1], getenv("LD_PRELOAD") ? getenv("LD_PRELOAD") : "none");
    fflush(stdout);
    p[n == 3 ? 100 : 99] = 1;
    free((void *)p);
    return 0;
}
"""

# Says what environment it was left with. Its strcpy, as a sanitizer's, is not to be called before main.
ENVIRONMENT = r"""
#include <stdio.h>
#include <unistd.h>
static int started;
char *strcpy(char *to, const char *from) { if (!started) _exit(9); while ((*to++ = *from++)) ; return to; }
int main(void) {
    started = 1;
    for (char **e = environ; *e; e++) puts(*e);
    return 0;
}
"""

# Executes a program that cannot execute itself by the name that the kernel gave it: that lies at the stack's very top.
EXECUTES_ONCE = r"""
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(int n, char **words) {
    static char path[4096];
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_execve, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 20),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x7ffc, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof(filter) / sizeof(*filter), filter};
    strcpy(path, words[1]);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        return perror("seccomp"), 3;
    execv(path, words + 1);
    return perror(path), 4;
}
"""


class Strangers(Served):
    """Programs that have, or find, functions of the C library's names elsewhere."""

    def compile(self, name, text, *words):
        out = f"{self.runtime}/{name}"
        subprocess.run(["gcc", "-x", "c", "-", "-O1", "-fno-builtin", "-D_GNU_SOURCE", "-w", "-o", out, *words],
                       input=text, text=True, check=True)
        return out

    def test_own_string_functions(self):
        """Neither the constructor nor the worker calls functions of the program's."""
        program = self.compile("own", OWN_FUNCTIONS, "-rdynamic")
        several = [self.holder("--all", "--heap=none", command=(program,), script="") for _ in range(2)]
        for p in several:
            wait_until(lambda p=p: shared_bytes(p.pid) > 4 << 20, "sharing")
        for p in several:
            self.end(p)

    def test_imports_no_string_functions(self):
        """Those that there are for such a program, the test above has too few of to notice."""
        out = subprocess.run(["nm", "-D", "--undefined-only", PRELOAD], capture_output=True, text=True, check=True).stdout
        imported = [line.split()[-1].split("@")[0] for line in out.splitlines()]
        self.assertIn("pthread_create", imported)
        self.assertEqual([name for name in imported if name.startswith(("mem", "str", "stp", "bcopy", "bzero"))], [])

    def test_deep_binding(self):
        """What the program has allocated is freed by the same allocator, and its RUNPATH counts as before."""
        self.compile("plugin.so", PLUGIN, "-shared", "-fPIC")
        program = self.compile("deep", DEEPBIND, "-Wl,-rpath,$ORIGIN")
        for heap in ["none"] + [name for name in LIBRARIES if library_path(name)]:
            self.assertEqual(self.samepage("run", "--socket", self.socket, "--all", f"--heap={heap}", "--", program),
                             (0, "", ""), heap)

    def test_sanitizers(self):
        """A program with a sanitizer's runtime as a shared library is left alone: it runs, and its errors are found."""
        for name, word in (("address", "heap-buffer-overflow"), ("thread", "")):
            program = self.compile(name, OVERFLOW, f"-fsanitize={name}")
            if subprocess.run([program, "word"], capture_output=True).returncode:
                self.skipTest(f"gcc's -fsanitize={name} does not work here")
            for heap in ["none"] + [library for library in LIBRARIES if library_path(library)]:
                front = ["run", "--socket", self.socket, "--all", f"--heap={heap}", "--", program, "word"]
                self.assertEqual(self.samepage(*front), (0, "word none\n", ""), heap)
                self.assertIn(word, self.samepage(*front, "more")[2], heap)
        self.set(LD_PRELOAD="/usr/lib/x86_64-linux-gnu/libthread_db.so.1")
        self.assertEqual(self.samepage(*front)[1], f"word {self.environment['LD_PRELOAD']}\n")

    def test_sanitizer_that_cannot_be_left(self):
        """Where executing it anew fails the program runs on, with its environment as it was."""
        runtime = self.compile("libasan.so", "", "-shared")
        sanitized = self.compile("sanitized", ENVIRONMENT, "-rdynamic", f"-Wl,--no-as-needed,{runtime}")
        ordinary, once = self.compile("ordinary", ENVIRONMENT), self.compile("once", EXECUTES_ONCE)
        for preload in ({}, {"LD_PRELOAD": "/usr/lib/x86_64-linux-gnu/libthread_db.so.1"}):
            self.set(**preload)

            def run(*words):
                status, out, err = self.samepage("run", "--socket", self.socket, "--all", "--heap=none", "--", *words)
                self.assertEqual((status, err), (0, ""))
                return out.splitlines()

            there, left = run(ordinary), run(sanitized)
            self.assertEqual(run(once, sanitized), there)
            self.assertEqual([line for line in there if not line.startswith("LD_PRELOAD=")],
                             [line for line in left if not line.startswith("LD_PRELOAD=")])
            self.assertEqual([line[11:] for line in left if line.startswith("LD_PRELOAD=")], list(preload.values()))


class Heap(Served):
    """--heap: whose malloc it is."""

    def libraries(self):
        found = [name for name in LIBRARIES if library_path(name)]
        if not found:
            self.skipTest("neither libmimalloc2.0 nor libjemalloc2 is installed")
        return found

    def preloaded(self, *words):
        status, out, err = self.samepage("run", "--socket", self.socket, *words, "--", "/bin/sh", "-c",
                                         "echo $LD_PRELOAD")
        self.assertEqual((status, err), (0, ""))
        return out.strip().split(":")

    def test_wrong_name(self):
        for name in ("tcmalloc", "", "none ", "MIMALLOC"):
            self.assertUsage(self.samepage("run", "--all", f"--heap={name}", "--", "true"), f"'{name}'", "run")

    def test_needs_all(self):
        self.assertUsage(self.samepage("run", "--advised", "--heap=jemalloc", "--", "true"), "needs '--all'", "run")
        self.assertEqual(self.preloaded("--advised", "--heap=none"), [PRELOAD])
        self.set(SAMEPAGE_SCOPE="advised")
        self.assertUsage(self.samepage("run", "--heap=mimalloc", "--", "true"), "needs '--all'", "run")

    def test_order(self):
        """Ours first, then what the user preloads, whose malloc counts, then the library."""
        for name in self.libraries():
            self.environment.pop("LD_PRELOAD", None)
            self.assertEqual(self.preloaded("--all", f"--heap={name}"), [PRELOAD, library_path(name)])
            self.set(LD_PRELOAD="libSegFault-none.so")
            out = self.samepage("run", "--socket", self.socket, "--all", f"--heap={name}", "--", "/bin/sh", "-c",
                                "echo $LD_PRELOAD")[1]
            self.assertEqual(out.strip(), f"{PRELOAD}:libSegFault-none.so:{library_path(name)}")
        self.environment.pop("LD_PRELOAD", None)
        self.assertEqual(self.preloaded("--all", "--heap=none"), [PRELOAD])
        default = library_path("mimalloc")
        self.assertEqual(self.preloaded("--all"), [PRELOAD] + ([default] if default else []))
        self.assertEqual(self.preloaded("--advised"), [PRELOAD])

    def test_slices(self):
        """GLib's slices are left to mimalloc, unless the user has said what they are to be."""
        def told(*words):
            return self.samepage("run", "--socket", self.socket, *words, "--", "/bin/sh", "-c", "echo $G_SLICE")[1]

        self.environment.pop("G_SLICE", None)
        wanted = {name: "always-malloc\n" if name == "mimalloc" else "\n" for name in self.libraries()}
        self.assertEqual({name: told("--all", f"--heap={name}") for name in wanted}, wanted)
        self.assertEqual(told("--all", "--heap=none") + told("--advised"), "\n\n")
        self.set(G_SLICE="debug-blocks")
        self.assertEqual({told("--all", f"--heap={name}") for name in wanted}, {"debug-blocks\n"})

    @unittest.skipIf(os.getuid(), "only root can hide a library")
    def test_missing_library(self):
        """In a mount namespace where the directory of libraries holds only what samepage itself needs."""
        hidden = f"{self.runtime}/lib"
        os.mkdir(hidden)
        for program in (SAMEPAGE, "/bin/true"):
            for word in subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout.split():
                if word.startswith("/"):
                    shutil.copy(word, hidden)

        def run(*words):
            return self.samepage_in(["unshare", "-m", "/bin/sh", "-c",
                                     'mount --bind "$0" /usr/lib/x86_64-linux-gnu && exec "$@"', hidden, SAMEPAGE,
                                     "run", "--socket", self.socket, "--all", *words, "--", "/bin/true"])

        for name, package in PACKAGES.items():
            self.assertFailure(run(f"--heap={name}"), 125, LIBRARIES[name], "not installed", f"apt-get install {package}")
        self.assertEqual(run(), (0, "", ""))  # the default need not be there
        self.assertEqual(run("--heap=none"), (0, "", ""))

    def samepage_in(self, words):
        p = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        return p.returncode, p.stdout, p.stderr

    def test_objects_are_shared(self):
        expected = subprocess.run([PYTHON, "-c", OBJECTS], input="\n", capture_output=True, text=True,
                                  check=True).stdout.split()[1]
        for name in self.libraries():
            with self.subTest(heap=name):
                several = [self.holder("--all", f"--heap={name}", script=OBJECTS) for _ in range(3)]
                for p in several:
                    wait_until(lambda p=p: shared_bytes(p.pid) >= 8 << 20, "8 MiB of objects are shared")
                for p in several:
                    self.end(p, f"{expected}\n")

    def test_worker_starts_within_malloc(self):
        """(f) of docs/hazards.md: the first mapping that an allocator makes starts the worker."""
        script = "import threading\nfor _ in range(20):\n  t = threading.Thread(target=lambda: bytes(1 << 22))\n" \
                 "  t.start(); t.join()\nprint(len([bytes(n) for n in range(0, 100000, 50)]))"
        self.set(SAMEPAGE_SET="worker_start_kbytes=0")
        for name in self.libraries():
            for _ in range(5):
                self.assertEqual(self.samepage("run", "--socket", self.socket, "--all", f"--heap={name}", "--", PYTHON,
                                               "-c", script), (0, "2000\n", ""))

    def test_redis(self):
        """The same dataset in several servers, with us and without: shared, and its digest is the same."""
        server = shutil.which("redis-server")
        if not server:
            self.skipTest("redis-server is not installed")
        plain, several = self.redis(), [self.redis(SAMEPAGE, "run", "--socket", self.socket, "--all", "--")
                                        for _ in range(3)]
        for redis in (plain, *several):
            self.assertEqual(redis.ask("DEBUG", "POPULATE", "20000", "key", "700"), "+OK")
        for redis in several:
            wait_until(lambda redis=redis: shared_bytes(redis.process.pid) >= 8 << 20, "8 MiB are shared")
        for redis in (plain, *several):  # written through, half of it
            for i in range(0, 20000, 2):
                redis.send("SET", f"key:{i}", f"new {i}")
            for i in range(0, 20000, 2):
                self.assertEqual(redis.answer(), "+OK")
        self.assertEqual({redis.ask("DEBUG", "DIGEST") for redis in several}, {plain.ask("DEBUG", "DIGEST")})
        for redis in (plain, *several):
            self.assertEqual(redis.ask("SAVE"), "+OK")
            self.assertEqual(redis.ask("DEBUG", "RELOAD"), "+OK")
        self.assertEqual({redis.ask("DEBUG", "DIGEST") for redis in several}, {plain.ask("DEBUG", "DIGEST")})

    def redis(self, *front):
        redis = Redis(front, tempfile.mkdtemp(dir=self.runtime), self.environment)
        self.addCleanup(redis.end)
        return redis


class Redis:
    """A server on a socket of its own, and one connection to it."""

    def __init__(self, front, directory, environment):
        path = f"{directory}/socket"
        self.process = subprocess.Popen(
            [*front, shutil.which("redis-server"), "--port", "0", "--unixsocket", path, "--dir", directory, "--save", "",
             "--enable-debug-command", "yes"], env=environment, stdout=subprocess.DEVNULL)
        self.socket = socket.socket(socket.AF_UNIX)
        wait_until(lambda: os.path.exists(path), "redis listens")
        wait_until(lambda: self.socket.connect_ex(path) == 0, "redis answers")
        self.answers = self.socket.makefile("rb")

    def send(self, *words):
        self.socket.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in words))

    def answer(self):
        return self.answers.readline().decode().strip()

    def ask(self, *words):
        self.send(*words)
        return self.answer()

    def end(self):
        self.answers.close()
        self.socket.close()
        self.process.kill()
        self.process.wait()


if __name__ == "__main__":
    tap.main(sys.argv[1:])
