# One target a task; `make demo` and `make test` set up what they need. Runs as root (or with sudo
# for the packages): the tests and the lab make network namespaces.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# ip, dnsmasq, veritysetup: not on the path of every root shell.
export PATH := $(PATH):/usr/sbin:/sbin

HOST := x86_64-unknown-linux-gnu
NBP  := target/nbp
INIT := target/init/$(HOST)/release/pristine-init
# State folder with the images of the tests and the lab.
STATE := target/images/state
DEBIAN := target/images/debian.stamp

.PHONY: help setup build release init nbp images test torture sushy demo demo-rollout bench bench-store lint fmt deny fuzz ci

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 14

setup: ## packages, boot programs and kernels that building, testing and the lab need (Debian 12)
	tools/setup

build: setup ## debug build of everything
	cargo build --locked --workspace
	$(MAKE) --no-print-directory init

release: setup ## release build of pristine and its init
	cargo build --locked --release -p pristine
	$(MAKE) --no-print-directory init

# Static, since it runs in an initramfs that has no C library; beside each pristine, which packs it.
init: ## the static initramfs init, copied beside the pristine binaries
	RUSTFLAGS='-C target-feature=+crt-static' cargo build --locked --release -p pristine-init \
	    --target $(HOST) --target-dir target/init
	for d in target/debug target/release; do \
	    mkdir -p $$d; \
	    cmp -s $(INIT) $$d/pristine-init || install -m 755 $(INIT) $$d/pristine-init; \
	done

nbp: build ## boot programs from Debian's packages, for the tests and the lab
	target/debug/pristine nbp fetch --dir $(NBP)

images: build ## the images of the tests: tiny, Debian's installer, a Debian live ISO
	images/tiny/build $(STATE)
	images/debian-installer/build
	images/debian-live/build

sushy: target/sushy/stamp ## the Redfish emulator of the tests, from PyPI

target/sushy/stamp: tests/it/sushy/requirements.txt | setup
	python3 -m venv target/sushy
	target/sushy/bin/pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

test: build nbp images sushy ## units, properties, integration in namespaces, real boots on four firmware paths
	cargo test --locked --workspace

torture: build nbp images ## breaks the service on purpose, at length, and prints what was lost by fault; the tests have the short form
	tools/torture

# The debug build: it is made in a third of the time.
demo: build nbp $(DEBIAN) ## real Debian on one BIOS and one UEFI machine: boots, forgets, is upgraded and rolled back
	target/debug/pristine lab demo --nbp-dir $(NBP) --images $(STATE)

# The second has a package more. Built anew where the recipe changed, or by removing the stamp.
$(DEBIAN): $(shell find images/debian -type f) | build
	for version in 1 2; do \
	    target/debug/pristine --state-dir $(STATE) image build images/debian --name debian --version $$version \
	        --nics virtual --move-tag; \
	done
	touch $@

demo-rollout: build nbp ## a rollout to a broken image stops and heals by itself; a good one reaches every server
	images/tiny/build $(STATE)
	target/debug/pristine lab rollout --nbp-dir $(NBP) --images $(STATE)

bench: release nbp $(DEBIAN) ## next to Kea, dnsmasq, nginx and others on the same work, as ratios; ROWS=dhcp,http chooses (docs/benchmarks.md)
	images/tiny/build $(STATE)
	tools/setup --bench
	ROWS='$(ROWS)' python3 -B tools/bench

bench-store: release ## what ten versions of a Debian image cost in the store, next to casync, and what serving chunks costs
	tools/bench-store

FUZZ_SECONDS ?= 60

# A stable compiler does: the sanitizer's flag is all that it is asked for beyond that. No search for leaks: a thread that has
# just ended still has what is its own.
fuzz: ## each fuzz target for FUZZ_SECONDS (60), from its corpus on; what breaks a promise lies in fuzz/artifacts
	command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
	for target in $$(cargo fuzz list); do \
	    mkdir -p fuzz/grown/$$target; \
	    RUSTC_BOOTSTRAP=1 cargo fuzz run $$target fuzz/grown/$$target fuzz/corpus/$$target -- \
	        -max_total_time=$(FUZZ_SECONDS) -timeout=20 -detect_leaks=0 -rss_limit_mb=2048 -print_final_stats=1 || exit 1; \
	done

fmt: ## formats the sources
	cargo fmt --all

lint: ## formatting and clippy; warnings are errors
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

deny: ## licences, advisories and sources of every dependency (needs the network; builds cargo-deny once)
	command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny check

# clippy lints what it compiles for the tests, instead of in a build of its own; its arguments as cargo-clippy
# hands them on.
# Nothing is built twice in it: no pieces kept for the next build.
ci: export CARGO_INCREMENTAL = 0
ci: export RUSTC_WORKSPACE_WRAPPER = clippy-driver
ci: export CLIPPY_ARGS = -D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__
ci: setup ## what .ci/run runs: lint and test
	cargo fmt --all --check
	$(MAKE) --no-print-directory test
