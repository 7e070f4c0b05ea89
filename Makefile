# Everything a developer types. `make` alone lists it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

TARGET := $(or $(CARGO_TARGET_DIR),target)
BED := $(TARGET)/debug/headgate-bed
# The SQL is tested on the PostgreSQL of this machine, and on these major versions too (none: make test POSTGRES_TOO=).
POSTGRES_TOO ?= 18
# What a version can change: statements, their plans and their locks. Lost answers, clocks and crashes are met alike.
OF_A_VERSION := adoption:: append:: forget:: gate:: marks:: opaque_digits:: plans:: reread:: upkeep:: races::bulk:: races::gap:: races::reapplied::

##@ Try

.PHONY: demo
demo: binaries ## Three replicas under fire for a minute, and the proof that the promises held
	$(BED) demo --binary $(TARGET)/debug/headgate

.PHONY: up
up: binaries ## Keep servers, sources and REPLICAS=3 replicas running for playing
	@$(BED) up --binary $(TARGET)/debug/headgate --replicas $(or $(REPLICAS),3)

.PHONY: down
down: bed ## End the playground and remove all it wrote
	@$(BED) down

##@ Test

.PHONY: test
test: prepare lint ## Format, lints, and every test against a real PostgreSQL and kube-apiserver
	cargo test --workspace --no-run
	$(BED) parts run -- cargo test --workspace
	for version in $(POSTGRES_TOO); do \
	  HEADGATE_POSTGRES_VERSION=$$version $(BED) parts run -- cargo test --workspace --test store -- $(OF_A_VERSION); done

.PHONY: prepare
prepare: bed ## Find, install or build PostgreSQL (POSTGRES_TOO=18 as well), etcd and kube-apiserver
	@$(BED) prepare $(POSTGRES_TOO)

.PHONY: fuzz
fuzz: cargo ## Fuzz what reads the bytes of strangers for MINUTES=60: bodies, paths, headers, gzip
	HEADGATE_FUZZ_SECONDS=$$(( $(or $(MINUTES),60) * 60 )) cargo test --quiet --package headgate --lib fuzz_ -- --nocapture

.PHONY: lint
lint: cargo ## Format, clippy, rustdoc and (where cargo-deny is installed) the dependencies
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --workspace --lib --bins --features headgate/mutations -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --document-private-items --quiet
	if cargo deny --version >/dev/null 2>&1; then cargo deny check bans licenses sources; \
	else echo 'cargo-deny is not installed, so dependencies are not checked: cargo install cargo-deny'; fi

.PHONY: parts
parts: bed ## Start PostgreSQL, etcd and kube-apiserver for tests and keep them
	@$(BED) parts up

.PHONY: parts-down
parts-down: bed ## End them and remove their files
	@$(BED) parts down

##@ Measure

.PHONY: chaos
chaos: binaries ## Kill, freeze, cut off and restart everything for MINUTES=30, and prove the promises (SEED=, REPLICAS=3..5, SOURCES=12..200)
	$(BED) chaos --binary $(TARGET)/debug/headgate --minutes $(or $(MINUTES),30) \
	  $(addprefix --seed ,$(SEED)) $(addprefix --replicas ,$(REPLICAS)) $(addprefix --sources ,$(SOURCES))

# In a file of its own, so that no other target runs it; the dependencies are those of all other targets.
.PHONY: mutants
mutants: cargo ## Leave out one rule of the protocol after the other, and see chaos notice each (ONLY="none lease-alone" for some)
	cargo build --quiet --workspace --features headgate/mutations
	mv -f $(TARGET)/debug/headgate $(TARGET)/debug/headgate-mutations
	cargo build --quiet --workspace
	$(BED) mutants --binary $(TARGET)/debug/headgate-mutations $(addprefix --only ,$(ONLY))

# Release builds: the figures of a debug build mean nothing. First the one that a figure compares with, then the real one.
.PHONY: bench
bench: cargo ## Measure the figures of the README, here and in .headgate/bench.md (ONLY="backfill idle" for some, of these with fsync: DURABLE=1)
	cargo build --quiet --release --package headgate --package headgate-bed --features headgate/mutations
	cp $(TARGET)/release/headgate $(TARGET)/release/headgate-mutations
	cargo build --quiet --release --package headgate --package headgate-bed
	$(TARGET)/release/headgate-bed bench --binary $(TARGET)/release/headgate --mutated $(TARGET)/release/headgate-mutations \
	  $(addprefix --only ,$(ONLY)) $(if $(DURABLE),--durable)

.PHONY: bench-scale
bench-scale: cargo ## Measure 1,000 and 10,000 sources on three replicas, here and in .headgate/bench-scale.md (SIZES=1000, ONLY="calm busy")
	cargo build --quiet --release --package headgate --package headgate-bed
	$(TARGET)/release/headgate-bed bench-scale --binary $(TARGET)/release/headgate $(addprefix --size ,$(SIZES)) \
	  $(addprefix --only ,$(ONLY))

.PHONY: bench-peers
bench-peers: cargo ## Measure a backfill beside dlt, Meltano, Camel and COPY, all installed in .headgate/peers (ROUNDS=5, EVENTS=1000000)
	cargo build --quiet --release --package headgate --package headgate-bed
	benches/peers/install .headgate/peers
	$(TARGET)/release/headgate-bed peers --binary $(TARGET)/release/headgate --tools .headgate/peers \
	  --rounds $(or $(ROUNDS),5) --events $(or $(EVENTS),1000000) $(addprefix --only ,$(ONLY))

##@ Build

.PHONY: crds
crds: cargo ## Write the CustomResourceDefinition again from the Rust types, everywhere it is kept
	mkdir -p crds
	cargo run --quiet -- crd > crds/.new && mv crds/.new crds/headgate.dev_eventsources.yaml
	for copy in config/crd charts/headgate/crd-manifests; do cp crds/headgate.dev_eventsources.yaml $$copy/; done

.PHONY: clean
clean: ## End what runs and remove everything that was built here (not the cache of this user)
	for place in .headgate/*/; do if [ -x $(BED) ] && [ -d $$place ]; then $(BED) parts down --place $$place; fi; done
	rm -rf .headgate
	cargo clean

# Static, so that it runs in an image without anything else.
HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
STATIC := $(TARGET)/$(HOST)/dist/headgate
ARCHIVE := dist/headgate-image.tar

.PHONY: image
image: bed ## The container image, as dist/headgate-image.tar: with Docker where it works, else with Buildah
	RUSTFLAGS='-C target-feature=+crt-static' cargo build --locked --profile dist --target $(HOST) --bin headgate
	mkdir -p dist
	cp $(STATIC) dist/headgate
	@$(BED) image --archive $(ARCHIVE)

.PHONY: e2e
e2e: image ## Install, scale and remove it in a real cluster: kind where Docker works, else a node of its own (ON=kind, ON=node)
	@$(BED) e2e --archive $(ARCHIVE) $(addprefix --on=,$(ON))

##@ Help

.PHONY: help
help: ## This list
	@awk 'BEGIN {FS = ":.*## "} /^##@ / {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Not for typing: what the targets above need.

# The whole workspace, as for the tests: with other features, all dependencies would be built once more.
.PHONY: binaries bed
binaries bed: cargo
	@echo 'building (minutes the first time, seconds afterwards)'
	@cargo build --quiet --workspace

.PHONY: cargo
cargo:
	@command -v cargo >/dev/null || { echo 'cargo is missing: install Rust 1.95 or newer with rustup' >&2; exit 1; }
