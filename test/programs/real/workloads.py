# SPDX-License-Identifier: MIT
"""The programs, and what each has to do. A workload gets a box and returns what must be the same with us and
without; it raises Failed for what the program itself finds wrong. The two runs differ in nothing but the box."""

import concurrent.futures
import contextlib
import glob
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request

from box import TOP, Failed

HERE = os.path.dirname(os.path.abspath(__file__))
PYTHON = "/usr/bin/python3"
PROGRAMS = []


def program(name, packages, *needs, short=False, alone=False):
    """Registers a workload. `packages`: Debian's, for the reader; `needs`: files or commands without which it is
    skipped; `short`: belongs to `make check`; `alone`: takes so much of what the machine has for all, processes for
    one, that others fail beside it."""
    def register(function):
        PROGRAMS.append({"name": name, "packages": packages, "needs": needs, "short": short, "alone": alone,
                         "work": function, "remark": (function.__doc__ or "").strip().replace("\n", " ")})
        return function
    return register


def file(name):
    return os.path.join(HERE, name)


def digest(data):
    return hashlib.sha256(data).hexdigest()[:16]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(what, condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            if condition():
                return
        time.sleep(0.05)
    raise Failed(f"never happened: {what}")


# ---- interpreters ----------------------------------------------------------------------------------------------


@program("python3", "python3", PYTHON, short=True)
def python_objects(box):
    """four, the same dictionaries; part of them is written afterwards"""
    return box.talk_many(4, [PYTHON, file("objects.py")], ["a", "b", "c"])


@program("python3 with numpy", "python3-numpy", PYTHON, "/usr/lib/python3/dist-packages/numpy", short=True)
def python_arrays(box):
    """a pool of three made by fork, one made by spawn"""
    with box.timed():
        return box.run([PYTHON, file("arrays.py"), "fork", "spawn"])


@program("node", "nodejs", "node")
def node(box):
    """three, the same objects and strings; much is made and dropped"""
    return box.talk_many(3, ["node", file("objects.js")], ["a", "b", "c"])


def java(box, collector):
    box.run(["javac", "-d", box.directory, file("grow.java")], plain=True)
    with box.timed():
        return box.run_many(2, ["java", collector, "-Xmx700m", "-cp", box.directory, "grow", "6"])


@program("java, serial collector", "openjdk-17-jdk-headless", "java", "javac")
def java_serial(box):
    """two; a heap that grows and shrinks"""
    return java(box, "-XX:+UseSerialGC")


@program("java, G1", "openjdk-17-jdk-headless", "java", "javac")
def java_g1(box):
    """two; a heap that grows and shrinks"""
    return java(box, "-XX:+UseG1GC")


@program("java, parallel collector", "openjdk-17-jdk-headless", "java", "javac")
def java_parallel(box):
    """two; a heap that grows and shrinks"""
    return java(box, "-XX:+UseParallelGC")


# ---- databases -------------------------------------------------------------------------------------------------


class Redis:
    """Speaks to a server by its protocol, many commands at a time."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=120)
        self.reader = self.socket.makefile("rb")

    def reply(self):
        line = self.reader.readline()
        if line[:1] == b"$":
            size = int(line[1:])
            return self.reader.read(size + 2)[:-2] if size >= 0 else None
        if line[:1] == b"*":
            return [self.reply() for _ in range(int(line[1:]))]
        if line[:1] == b"-":
            raise Failed(f"redis: {line.decode().strip()}")
        return line[1:-2]

    def many(self, commands):
        def encode(words):
            words = [w if isinstance(w, bytes) else str(w).encode() for w in words]
            return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)
        self.socket.sendall(b"".join(map(encode, commands)))
        return [self.reply() for _ in commands]

    def __call__(self, *words):
        return self.many([words])[0]

    def saving(self):
        return b"rdb_bgsave_in_progress:1" in self("INFO", "persistence")


def redis_commands(first, last):
    for i in range(first, last):
        yield ("SET", f"key {i}", bytes([i % 251]) * (200 + i % 800))
        yield ("HSET", f"hash {i % 500}", f"field {i}", f"value {i % 1000}" * (i % 9))
        yield ("RPUSH", f"list {i % 300}", f"entry {i}")


def redis_start(box, name, plain=False, directory=None):
    port, directory = free_port(), directory or box.path(name)
    os.makedirs(directory, exist_ok=True)
    box.start(["redis-server", "--port", port, "--dir", directory, "--save", "", "--enable-debug-command", "yes"],
              plain=plain, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for("redis answers", lambda: Redis(port)("PING") == b"PONG")
    return port, Redis(port)


@program("redis-server", "redis-server redis-tools", "redis-server", "redis-benchmark", short=True)
def redis(box):
    """three with the same data; BGSAVE while redis-benchmark writes; the dumps are loaded by a server without us"""
    servers = [redis_start(box, f"redis{i}") for i in range(3)]
    for start in range(0, 30000, 1000):
        for _, server in servers:
            server.many(list(redis_commands(start, start + 1000)))
    box.settle()
    digests = [server("DEBUG", "DIGEST") for _, server in servers]
    for _, server in servers:
        server("BGSAVE")
    with box.timed():
        loads = [box.start(["redis-benchmark", "-p", port, "--dbnum", "1", "-n", "60000", "-r", "20000", "-d", "400",
                            "-c", "4", "-P", "8", "-t", "set,get,lpush,hset", "-q"], plain=True,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE) for port, _ in servers]
        for load in loads:
            box.finish(load, "redis-benchmark")
    for _, server in servers:
        wait_for("BGSAVE ends", lambda s=server: not s.saving())
        server("SELECT", "1")
        server("FLUSHDB")
    digests += [server("DEBUG", "DIGEST") for _, server in servers]
    for i, (_, server) in enumerate(servers):
        _, check = redis_start(box, f"check{i}", plain=True, directory=box.path(f"redis{i}"))
        check("SELECT", "1")
        check("FLUSHDB")
        digests.append(check("DEBUG", "DIGEST"))
        check.many([("SELECT", "0"), ("SHUTDOWN", "NOSAVE")][:1])
    return digests


@program("sqlite3", "sqlite3", "sqlite3", short=True)
def sqlite(box):
    """three, the same database in memory; integrity_check"""
    with box.timed():
        return box.run_many(3, ["sh", "-c", f"sqlite3 :memory: <{file('rows.sql')}"])


@program("PostgreSQL", "postgresql postgresql-contrib", "/usr/lib/postgresql/*/bin/pgbench", "setpriv")
def postgresql(box):
    """as its own user, under pgbench: one client with a fixed seed, then four; totals must agree"""
    programs = os.path.dirname(sorted(glob.glob("/usr/lib/postgresql/*/bin/pgbench"))[-1])
    data, port = box.path("data"), free_port()
    shutil.chown(box.directory, "postgres", "postgres")

    def own(*words):
        return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *words]

    def client(name, *words):
        return box.run(own(f"{programs}/{name}", "-h", box.directory, "-p", port, *words), plain=True)

    def ask(sql):
        return client("psql", "-XAtc", sql, "postgres").decode().split()
    box.run(own(f"{programs}/initdb", "-D", data, "-A", "trust", "--no-sync"))
    box.start(own(f"{programs}/postgres", "-D", data, "-k", box.directory, "-p", port, "-c", "listen_addresses=",
                  "-c", "fsync=off"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for("postgres answers", lambda: box.run(
        own(f"{programs}/pg_isready", "-h", box.directory, "-p", port), plain=True, status=None).find(b"accepting") > 0)
    client("pgbench", "-i", "-s", "4", "-q", "postgres")
    with box.timed():
        client("pgbench", "-n", "-c", "1", "-t", "1500", "--random-seed=7", "postgres")
    exact = ask("select sum(abalance), count(*) from pgbench_accounts union all "
                "select sum(delta), count(*) from pgbench_history")
    with box.timed():
        client("pgbench", "-n", "-c", "4", "-j", "2", "-t", "700", "postgres")
    totals = ask("select sum(abalance) from pgbench_accounts union all select sum(tbalance) from pgbench_tellers "
                 "union all select sum(bbalance) from pgbench_branches union all select sum(delta) from pgbench_history")
    if len(set(totals)) != 1:
        raise Failed(f"the totals differ: {totals}")
    box.settle()
    sorted_rows = ask("set work_mem = '64MB'; select md5(string_agg(aid || ':' || bid, ',' order by aid desc)) "
                      "from pgbench_accounts")
    return exact, sorted_rows, ask("select count(*) from pgbench_history")


# ---- servers that fork -----------------------------------------------------------------------------------------

NGINX = """
daemon off; worker_processes 3; pid {dir}/nginx.pid; error_log {dir}/nginx.log; user root;
events {{ worker_connections 256; }}
http {{
    access_log off; root {dir}/www;
    client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3; uwsgi_temp_path {dir}/t4;
    scgi_temp_path {dir}/t5; gzip on; gzip_types text/plain; gzip_min_length 1;
    server {{
        listen 127.0.0.1:{port};
        location ~ [.]php$ {{
            include /etc/nginx/fastcgi_params; fastcgi_pass unix:{dir}/php.socket;
            fastcgi_param SCRIPT_FILENAME {dir}/www/$fastcgi_script_name;
        }}
    }}
}}
"""
PHP = """
[global]
error_log = {dir}/php.log
daemonize = no
[www]
user = root
listen = {dir}/php.socket
pm = static
pm.max_children = 4
pm.max_requests = 100
"""


@program("nginx and php-fpm", "nginx-light php-fpm", "/usr/sbin/nginx", "/usr/sbin/php-fpm*")
def nginx(box):
    """processes that are forked and serve; those of PHP end after 100 requests each and are forked anew"""
    port = free_port()
    os.mkdir(box.path("www"))
    shutil.copy(file("page.php"), box.path("www"))
    with open(box.path("www/text.txt"), "w", encoding="ascii") as f:
        f.write("".join(f"line {i}\n" for i in range(50000)))
    for name, text in (("nginx.conf", NGINX), ("php.conf", PHP)):
        with open(box.path(name), "w", encoding="ascii") as f:
            f.write(text.format(dir=box.directory, port=port))
    server = sorted(glob.glob("/usr/sbin/php-fpm*"))[-1]
    box.start([server, "-R", "-F", "-y", box.path("php.conf")], stderr=subprocess.DEVNULL)
    box.start(["/usr/sbin/nginx", "-c", box.path("nginx.conf"), "-p", box.directory], stderr=subprocess.DEVNULL)

    def get(path):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=60) as answer:
            return answer.read()
    wait_for("nginx and php-fpm answer", lambda: get("page.php?n=1"))
    paths = [f"page.php?n={i % 20}" if i % 4 else "text.txt" for i in range(1200)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(get, paths[:200]))
        box.settle()
        with box.timed():
            answers += pool.map(get, paths)
    return [digest(a) for a in answers]


# ---- compilers -------------------------------------------------------------------------------------------------

SOURCES = "deb-src http://deb.debian.org/debian {release} main\n"


def source_package(name):
    """Unpacks a source package of Debian once, with lists of our own: the machine's sources stay as they are."""
    place = os.path.join(TOP, "build", "programs", name)
    if not os.path.isdir(f"{place}/tree"):
        os.makedirs(f"{place}/lists/partial", exist_ok=True)
        with open("/etc/os-release", encoding="utf-8") as f:
            release = re.search(r"VERSION_CODENAME=(\w+)", f.read()).group(1)
        with open(f"{place}/sources.list", "w", encoding="ascii") as f:
            f.write(SOURCES.format(release=release))
        apt = ["apt-get", "-qq", "-o", f"Dir::Etc::sourcelist={place}/sources.list", "-o",
               "Dir::Etc::sourceparts=/dev/null", "-o", f"Dir::State::lists={place}/lists"]
        for words in (["update"], ["source", "--download-only", name]):
            if subprocess.run(apt + words, cwd=place, capture_output=True).returncode:
                raise Failed(f"apt-get {words[0]} failed for the source of {name}")
        os.mkdir(f"{place}/tree.new")
        archive = glob.glob(f"{place}/*.orig.tar.*")[0]
        subprocess.run(["tar", "xf", archive, "-C", f"{place}/tree.new", "--strip-components=1"], check=True)
        os.rename(f"{place}/tree.new", f"{place}/tree")
    return f"{place}/tree"


def objects(directory):
    names = sorted(glob.glob(f"{directory}/**/*.o", recursive=True))
    if not names:
        raise Failed("nothing was compiled")
    found = {}
    for name in names:
        with open(name, "rb") as f:
            found[os.path.relpath(name, directory)] = digest(f.read())
    return found


def build_lua(box, compiler):
    shutil.copytree(source_package("lua5.4"), box.path("lua"))
    with box.timed():
        box.run(["make", "-C", box.path("lua/src"), "-j4", f"CC={compiler} -std=gnu99", "linux"])
    return objects(box.path("lua"))


@program("gcc", "gcc make", "gcc", "make")
def gcc(box):
    """builds the package lua5.4, four at a time; the same object files"""
    return build_lua(box, "gcc")


@program("clang", "clang make", "clang", "make")
def clang(box):
    """builds the package lua5.4, four at a time; the same object files"""
    return build_lua(box, "clang")


@program("gcc, some", "gcc", "gcc", short=True)
def gcc_some(box):
    """this project's src/core, three at a time; the same object files"""
    sources = sorted(glob.glob(f"{TOP}/src/core/[a-d]*.c"))
    with box.timed():
        for first in range(0, len(sources), 3):
            several = [box.start(["gcc", "-O2", "-D_GNU_SOURCE", f"-I{TOP}/src", f"-I{TOP}/include", "-c", s,
                                  "-o", os.path.basename(s) + ".o"]) for s in sources[first:first + 3]]
            for p in several:
                box.finish(p, "gcc")
    return objects(box.directory)


# ---- machines --------------------------------------------------------------------------------------------------


@program("QEMU", "qemu-system-x86", "qemu-system-x86_64", "apt-get")
def qemu(box):
    """two guests (TCG) with the demo's kernel; they add up their memory, overwrite a part, add up again"""
    files = subprocess.run([f"{TOP}/demo/prepare"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                           check=True).stdout.decode().split()[-1]
    guests = [box.start(["qemu-system-x86_64", "-accel", "tcg", "-m", "256M", "-display", "none", "-nodefaults",
                         "-no-reboot", "-serial", "stdio", "-kernel", f"{files}/vmlinuz", "-initrd",
                         f"{files}/initramfs", "-append", "console=ttyS0 quiet panic=-1"],
                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in range(2)]

    def hear(guest):
        for line in iter(guest.stdout.readline, b""):
            if line.startswith(b"demo: "):
                return line.decode().split()[1:]
        raise Failed("a guest ended")

    def ask(word):
        for guest in guests:
            guest.stdin.write(word.encode() + b"\n")
            guest.stdin.flush()
        return [hear(g)[:2] for g in guests]
    heard = [hear(g) for g in guests]
    box.settle()
    with box.timed():
        heard += ask("sum") + ask("sum")
    heard += ask("change")
    with box.timed():
        heard += ask("sum")
    with open(f"{files}/expected.json", encoding="ascii") as f:
        expected = json.load(f)
    sums = {words[1] for words in heard if words[0] == "sum"}
    if not sums <= {v for v in expected.values() if isinstance(v, str)}:
        raise Failed(f"a guest's memory is wrong: {sums}, expected {expected}")
    return heard


# ---- stress ----------------------------------------------------------------------------------------------------

STRESSORS = """bigheap brk clone fork madvise malloc memcpy memfd memrate memthrash mincore misaligned mlock mmap
mmapaddr mmapfixed mmapfork mmaphuge mmapmany mprotect mremap msync munmap numa pageswap pkey prefetch remap resources
seccomp shm shm-sysv sigsegv stack stackmmap switch sysbadaddr tree userfaultfd vfork vforkmany vm vm-addr vm-rw
vm-segv vm-splice zero""".split()


def stress(box, names, seconds):
    results = {}
    for name in names:
        process = box.start(["stress-ng", f"--{name}", "2", "--vm-bytes", "48m", "--verify", "--oomable", "--timeout",
                             f"{seconds}", "--temp-path", box.directory], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT)
        said = box.finish(process, name, seconds + 60, status=None).decode(errors="replace")
        bad = [line.split("]", 1)[-1].strip() for line in said.splitlines() if "fail:" in line]
        unknown = "unrecognized option" in said
        results[name] = "unknown" if unknown else f"{process.returncode} {' '.join(bad[:2])}".strip()
    return results


@program("stress-ng", "stress-ng", "stress-ng", alone=True)
def stress_ng(box):
    """its stressors of memory, two processes each for a second, with --verify; the same verdict for each"""
    results = stress(box, STRESSORS, 1)
    if sum(r == "0" for r in results.values()) < len(results) / 2:
        raise Failed(f"too few can run here: {results}")
    return results


@program("stress-ng, some", "stress-ng", "stress-ng", short=True)
def stress_ng_some(box):
    """four of its stressors of memory, a second each, with --verify"""
    return stress(box, ["vm", "mmap", "mremap", "madvise"], 1)


# ---- other languages -------------------------------------------------------------------------------------------

GO = """package main

import ("crypto/sha256"; "fmt"; "runtime"; "sort")

func main() {
	kept := map[int][]byte{}
	for i := 0; i < 30000; i++ { kept[i] = make([]byte, 1000+i%500); kept[i][i%1000] = byte(i) }
	done := make(chan int)
	for k := 0; k < 4; k++ { go func(k int) { s := 0; for i := 0; i < 200; i++ { b := make([]byte, 100000); b[k] = 1; s += int(b[k]) }; done <- s }(k) }
	for k := 0; k < 4; k++ { <-done }
	runtime.GC()
	keys := []int{}
	for i := range kept { keys = append(keys, i) }
	sort.Ints(keys)
	h := sha256.New()
	for _, i := range keys { h.Write(kept[i]) }
	fmt.Printf("%x\\n", h.Sum(nil))
}
"""


@program("a Go program, static", "golang-go", "go")
def go_static(box):
    """not served: it has no C library, so nothing is loaded into it; it runs unmerged"""
    with open(box.path("heap.go"), "w", encoding="ascii") as f:
        f.write(GO)
    box.run(["go", "build", "-o", "heap", "heap.go"], plain=True, env={**box.environment, "CGO_ENABLED": "0",
            "GOCACHE": box.path("cache"), "GO111MODULE": "off", "GOFLAGS": ""})
    with box.timed():
        return box.run_many(3, [box.path("heap")])


@program("hugo (Go, dynamic)", "hugo", "hugo")
def hugo(box):
    """builds a site of 400 pages; Go maps its heap by raw system calls, of which nothing is seen or merged"""
    os.makedirs(box.path("site/content"))
    os.makedirs(box.path("site/layouts/_default"))
    with open(box.path("site/config.toml"), "w", encoding="ascii") as f:
        f.write('baseURL = "http://x/"\ntitle = "site"\ndisableKinds = ["RSS", "sitemap"]\n')
    for name in ("single", "list"):
        with open(box.path(f"site/layouts/_default/{name}.html"), "w", encoding="ascii") as f:
            f.write("<h1>{{ .Title }}</h1>{{ .Content }}\n")
    for i in range(400):
        with open(box.path(f"site/content/page{i}.md"), "w", encoding="ascii") as f:
            f.write(f"---\ntitle: Page {i}\n---\n" + "".join(f"* item *{k * i}*\n" for k in range(200)))
    with box.timed():
        box.run(["hugo", "-s", box.path("site"), "-d", box.path("out"), "--quiet"])
    return {os.path.relpath(n, box.path("out")): digest(open(n, "rb").read())
            for n in sorted(glob.glob(box.path("out/**/*.html"), recursive=True))}


@program("ripgrep (Rust)", "ripgrep", "rg", short=True)
def ripgrep(box):
    """two, over /usr/include; ends before there is anything worth merging"""
    with box.timed():
        outs = box.run_many(2, ["rg", "-c", "--no-messages", "struct|define", "/usr/include"])
    return [sorted(o.split(b"\n")) for o in outs]


# ---- a browser -------------------------------------------------------------------------------------------------


def chromium(box, *more):
    picture = box.path("page.png")
    with box.timed():
        box.run(["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                 "--window-size=800,900", "--virtual-time-budget=3000", f"--user-data-dir={box.path('profile')}",
                 "--run-all-compositor-stages-before-draw",  # on a busy machine tiles are missing without it
                 f"--screenshot={picture}", *more, f"file://{file('page.html')}"], seconds=90)
    with open(picture, "rb") as f:
        return digest(f.read())


@program("chromium", "chromium", "chromium")
def chromium_zygote(box):
    """headless, --no-sandbox; a page with a canvas, the same picture"""
    return chromium(box)


@program("chromium --no-zygote", "chromium", "chromium")
def chromium_plain(box):
    """headless, --no-sandbox, without the process that insists on having one thread; the same picture"""
    return chromium(box, "--no-zygote")


# ---- what watches a program's memory ---------------------------------------------------------------------------


def build_heap(box, *words):
    box.run([*words, "-g", "-O1", file("heap.c"), "-o", "heap", "-lpthread"], plain=True)
    return box.path("heap")


@program("valgrind", "valgrind gcc libc6-dbg", "valgrind", "gcc")
def valgrind(box):
    """memcheck; the program's output, and no error"""
    heap = build_heap(box, "gcc")
    with box.timed():
        return box.run(["valgrind", "-q", "--error-exitcode=9", heap])


@program("gdb", "gdb gcc", "gdb", "gcc", short=True)
def gdb(box):
    """breakpoints and a backtrace in the program, which shares; what gdb says about it is the same"""
    heap = build_heap(box, "gcc")
    with box.timed():
        said = box.run(["gdb", "-q", "-batch", "-nx", "-ex", "set debuginfod enabled off", "-ex", "break churn", "-ex",
                        "run", "-ex", "bt 1", "-ex", "delete", "-ex", "continue", heap], status=None).decode()
    said = re.sub(r"process \d+", "process", said)
    return [line for line in said.splitlines() if re.match(r"\d+ \d+ \d+$|Breakpoint|.*exited (normally|with)", line)
            and "Thread 0x" not in line]


def sanitizer(compiler, name, library):
    @program(f"{compiler} -fsanitize={name}", compiler, compiler, library)
    def sanitized(box):
        heap = build_heap(box, compiler, f"-fsanitize={name}")
        with box.timed():
            return box.run([heap])
    PROGRAMS[-1]["remark"] = "threads that allocate and free, and no report"


for sanitizer_name, sanitizer_library in (("address", "asan"), ("thread", "tsan"), ("undefined", "ubsan")):
    sanitizer("gcc", sanitizer_name, f"/usr/lib/gcc/x86_64-linux-gnu/*/lib{sanitizer_library}.so")
    sanitizer("clang", sanitizer_name, "/usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.asan*")
