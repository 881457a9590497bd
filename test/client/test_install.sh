#!/bin/sh
# SPDX-License-Identifier: MIT
# The library as a user gets it: installed into a directory, found by pkg-config, in C and in C++.
#   test_install.sh BUILD-DIR SOURCE-DIR
set -eu
build=$1 source=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
n=0

ok() {
    n=$((n + 1))
    echo "ok $n - $1"
}

skip() {
    n=$((n + 1))
    echo "ok $n - $1 # SKIP $2"
}

echo 'TAP version 13'
command -v pkg-config >/dev/null || { echo '1..0 # SKIP no pkg-config'; exit 0; }
meson install -C "$build" --no-rebuild --tags libsamepage,devel --destdir "$work/root" >"$work/log" 2>&1 ||
    { cat "$work/log" >&2; exit 1; }
pc=$(find "$work/root" -name samepage.pc)
lib=$(dirname "$(find "$work/root" -name 'libsamepage.so')")
export PKG_CONFIG_LIBDIR="$(dirname "$pc")" PKG_CONFIG_SYSROOT_DIR="$work/root"
ok "pkg-config file of version $(pkg-config --modversion samepage)"

cc=${CC:-cc}
strict='-Wall -Wextra -Werror -pedantic'
echo '#include <samepage/samepage.h>' >"$work/alone.c"
echo 'int main(void) { return samepage_version() == 0; }' >>"$work/alone.c"
for standard in c99 c11 c17; do
    # shellcheck disable=SC2046,SC2086
    $cc -std=$standard $strict -fsyntax-only $(pkg-config --cflags samepage) "$work/alone.c"
done
ok 'the header compiles alone as C'

echo '#include <samepage/ksm_2008.h>' >"$work/old.c"
echo 'int main(void) { return KSM_START_STOP_KTHREAD != 0x4010ab03 || KSM_REGISTER_MEMORY_REGION != 0x4010ab20; }' >>"$work/old.c"
# shellcheck disable=SC2046,SC2086
$cc -std=c99 $strict $(pkg-config --cflags samepage) "$work/old.c" -o "$work/old"
"$work/old"
ok 'the header of /dev/ksm compiles alone, with the numbers of 2008'

cp "$work/alone.c" "$work/alone.cc"
cat >>"$work/alone.cc" <<'CODE'
int use(samepage_domain *domain) {
    samepage_options options = {};
    options.size = sizeof(options);
    samepage_domain_counters counters = {};
    counters.size = sizeof(counters);
    return samepage_domain_open(&options, &domain) || samepage_domain_stats(domain, &counters);
}
CODE
cxx=${CXX:-c++}
if command -v "$cxx" >/dev/null; then
    # shellcheck disable=SC2046,SC2086
    $cxx -std=c++11 $strict -fsyntax-only $(pkg-config --cflags samepage) "$work/alone.cc"
    ok 'the header compiles alone as C++'
else
    skip 'the header compiles alone as C++' "no $cxx"
fi

for example in inprocess quiescent; do
    # shellcheck disable=SC2046,SC2086
    $cc $strict "$source/examples/$example.c" $(pkg-config --cflags --libs samepage) -o "$work/$example"
    LD_LIBRARY_PATH=$lib "$work/$example" >"$work/out"
    grep -q '^memory intact$' "$work/out"
    ok "examples/$example.c builds with pkg-config and runs"
done

readelf -d "$lib/libsamepage.so" >"$work/dynamic"
grep -q 'SONAME.*libsamepage\.so\.0\]' "$work/dynamic"
grep -q 'BIND_NOW' "$work/dynamic"
ok 'the library has its soname and is bound at once'

# Everything the header declares is there, under the version, and nothing else.
grep -o 'samepage_[a-z_]*(' "$source/include/samepage/samepage.h" | tr -d '(' | sort -u >"$work/declared"
readelf -W --dyn-syms "$lib/libsamepage.so" |
    awk '$5 == "GLOBAL" && $7 != "UND" && $4 == "FUNC" { sub("@.*", "", $8); print $8 }' | sort -u >"$work/exported"
diff "$work/declared" "$work/exported" >&2
ok 'it exports what the header declares, and nothing else'
echo "1..$n"
