# SPDX-License-Identifier: MIT
# The usual commands, in front of meson and ninja. Each of them installs what it needs (tools/setup) and builds
# first, so each works alone in a fresh checkout.

BUILD  ?= build
PREFIX ?= /usr/local
# Where Debian's pkg-config and dynamic linker look; meson would know it only with dpkg-dev installed. Expanded by the
# recipe (=), as the compiler may have to be installed first.
LIBDIR = $(addprefix --libdir=lib/,$(shell gcc -print-multiarch 2>/dev/null))

.PHONY: all build demo check check-programs stress bench install clean help
all: build

build: | setup-build
	@test -f $(BUILD)/build.ninja || meson setup --prefix=$(PREFIX) $(LIBDIR) $(BUILD) .
	@ninja -C $(BUILD)

demo: | setup-demo
	@$(MAKE) --no-print-directory build
	@/usr/bin/python3 demo/demo.py --build $(BUILD)

# Everything but the long stress tests.
check: | setup-check
	@$(MAKE) --no-print-directory build
	@tools/test $(BUILD) check --no-suite stress

# Real programs, compared with themselves without us: some twenty minutes. With docs/programs.md as PROGRAMS_TABLE that
# table is written anew.
PROGRAMS_TABLE ?= $(BUILD)/programs.md
check-programs: | setup-programs
	@$(MAKE) --no-print-directory build
	@tools/programs --build $(BUILD) --markdown $(PROGRAMS_TABLE)

stress: | setup-check
	@$(MAKE) --no-print-directory build
	@tools/test $(BUILD) stress --suite stress --verbose

# Beside the kernel's KSM: an hour and a half for everything. ARGS=--help tells what to choose, ARGS=--save keeps the
# results in bench/. Without ARGS the two kinds of index are measured as well.
ARGS ?=
bench: | setup-bench
	@$(MAKE) --no-print-directory build
	@guests=$$(demo/prepare $(BUILD)/demo); \
	/usr/bin/python3 bench/run.py --build $(BUILD) $${guests:+--guest-files "$$guests"} $(ARGS); status=$$?; \
	test -n "$(ARGS)" || /usr/bin/python3 bench/indexes.py --build $(BUILD) && exit $$status

install: build
	@meson configure $(BUILD) -Dprefix=$(PREFIX)
	@meson install -C $(BUILD)
	@test -n "$(DESTDIR)" || test ! -w /etc/ld.so.cache || PATH=$$PATH:/sbin ldconfig

clean:
	@rm -rf $(BUILD) build-ci-*

help:
	@echo "make build | demo | check | check-programs | stress | bench [ARGS=...] | install [PREFIX=/usr/local] [DESTDIR=] | clean"

.PHONY: setup-build setup-check setup-programs setup-demo setup-bench
setup-build setup-check setup-programs setup-demo setup-bench: setup-%:
	@tools/setup $*
