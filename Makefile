# SPDX-License-Identifier: MIT
# A thin front to Meson. BUILD=DIR builds elsewhere, CC=clang with another compiler.
BUILD ?= build
PREFIX ?= /usr/local
JOBS ?=

setup = test -f $(1)/build.ninja || meson setup $(1) $(2)
ninja = ninja -C $(1) $(if $(JOBS),-j $(JOBS))

.PHONY: all check quick long bench asan ubsan tsan clang lint install clean help

all:			## build the library, the command, tests and examples
	@$(call setup,$(BUILD)/dev,--prefix=$(PREFIX))
	$(call ninja,$(BUILD)/dev)

check:			## all that CI runs; minutes; ends with passed, failed, skipped
	UHMM_BUILD=$(BUILD) scripts/check

quick:			## the tree's checks, unit and functional tests; a minute
	UHMM_BUILD=$(BUILD) scripts/check --quick

long:			## check, with longer stress runs and ThreadSanitizer
	UHMM_BUILD=$(BUILD) scripts/check --long

bench:			## the benchmarks, each beside its floor
	@$(call setup,$(BUILD)/bench,--buildtype=release)
	$(call ninja,$(BUILD)/bench)
	$(BUILD)/bench/tools/uhmm/uhmm bench

asan:			## the suite under AddressSanitizer, checks on
	@$(call setup,$(BUILD)/only-asan,-Db_sanitize=address -Db_lundef=false -Dchecks=true)
	meson test -C $(BUILD)/only-asan --timeout-multiplier 4

ubsan:			## the suite under UndefinedBehaviorSanitizer, checks on
	@$(call setup,$(BUILD)/only-ubsan,-Db_sanitize=undefined -Db_lundef=false -Dchecks=true)
	UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
		meson test -C $(BUILD)/only-ubsan --timeout-multiplier 2

tsan:			## the suite under ThreadSanitizer, checks on
	@$(call setup,$(BUILD)/tsan,-Db_sanitize=thread -Db_lundef=false -Dchecks=true)
	meson test -C $(BUILD)/tsan --timeout-multiplier 10

clang:			## build with clang, warnings are errors
	@test -f $(BUILD)/clang/build.ninja || CC=clang meson setup $(BUILD)/clang -Dwerror=true
	$(call ninja,$(BUILD)/clang)

lint:			## include arrows, file lists, documents, cppcheck where installed
	scripts/arrows
	scripts/lists
	scripts/quotes
	scripts/guarantees
	@if command -v cppcheck >/dev/null; then \
		cppcheck --quiet --error-exitcode=1 --std=c11 --enable=warning,portability \
			--suppress=missingIncludeSystem --suppress=subtractPointers:src/sys/keeper.c \
			-Iinclude -Isrc -D__x86_64__ -DHMM_DEBUG=1 -DUHMM_HAVE_BENCH=1 \
			src drivers tools; \
	else echo "cppcheck is not installed"; fi

install: all		## install to PREFIX (/usr/local), DESTDIR is honoured
	meson configure $(BUILD)/dev --prefix=$(PREFIX)
	meson install -C $(BUILD)/dev

clean:			## remove what was built
	rm -rf $(BUILD)

help:			## this list
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | \
		while IFS='|' read -r target what; do printf '%-16s %s\n' "$$target" "$$what"; done
