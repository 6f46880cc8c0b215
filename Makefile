# Every task a person or CI runs. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The profile images are built with: release for use, dev for tests (one build serves both there).
PROFILE ?= release
CARGO   ?= cargo
CACHE   := $(or $(SALLYPORT_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/sallyport)
DENY    := $(CACHE)/tools/bin/cargo-deny
DENY_VERSION := 0.20.2
TARGET  := $(or $(CARGO_TARGET_DIR),target)
# Of the whole workspace: a selection of one package builds its dependencies anew, with other features than the tests'.
BUILD   := $(CARGO) build --workspace --bin
HARNESS := $(TARGET)/debug/sallyport-cluster
CLUSTER_NAME ?= demo
# Of `make fuzz`: how long each target runs, and which.
SECONDS ?= 60
TARGETS ?= client_bytes server_bytes session sql mask

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

.PHONY: demo
demo: setup ## the story, on a real cluster on this machine: three objects, one guarded PostgreSQL
	@hack/demo.sh

.PHONY: demo-down
demo-down: ## ends what `make demo` left running
	@hack/demo.sh down

.PHONY: test
test: setup fmt lint deny generated cluster-binaries images-dev ## everything CI checks
	@CARGO=$(CARGO) hack/test.sh
	cd tests/cluster/kind && go vet ./... && go test ./...

.PHONY: setup
setup: ## installs what a Debian machine needs
	@hack/setup.sh

.PHONY: fmt
fmt: ## formatting
	$(CARGO) fmt --all --check

.PHONY: lint
lint: ## clippy, warnings denied
	$(CARGO) clippy --workspace --all-targets -- -D warnings

.PHONY: deny
deny: $(DENY) ## licences, banned crates, sources
	@$(CARGO) fetch --locked --quiet
	$(DENY) --offline check bans licenses sources
	@test -z "$$($(CARGO) tree --workspace -i ring 2>/dev/null)" || { echo 'ring is in the dependency graph: see deny.toml'; exit 1; }

$(DENY):
	@echo 'installing cargo-deny $(DENY_VERSION), once (about three minutes)'
	CARGO_TARGET_DIR=$(CACHE)/tools/target CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off \
	  $(CARGO) install cargo-deny --locked --version $(DENY_VERSION) --no-default-features --root $(CACHE)/tools
	@rm -rf $(CACHE)/tools/target

.PHONY: crds
crds: ## writes config/crd from the types in crds/
	$(BUILD) crdgen
	$(TARGET)/debug/crdgen config/crd

.PHONY: generated
generated: crds ## fails when config/crd is not what the types say
	@git diff --exit-code -- config/crd || { echo 'config/crd is out of date: run make crds and commit it'; exit 1; }

.PHONY: cluster-binaries
cluster-binaries: ## Kubernetes, etcd and CoreDNS from their Go modules, once a machine
	@$(BUILD) sallyport-cluster
	@$(HARNESS) build

.PHONY: images
images: ## build/images/*.tar: the operator's and the proxy's images, for containerd, docker load or kind
	@PROFILE=$(PROFILE) hack/images.sh

.PHONY: images-dev
images-dev:
	@PROFILE=dev hack/images.sh

.PHONY: kind
kind: images ## a kind cluster with these images loaded and config/ applied (needs Docker and kind)
	kind create cluster --config kind-config.yaml
	for image in operator proxy; do kind load image-archive build/images/$$image.tar --name sallyport; done
	kubectl apply --server-side -k config/default

.PHONY: install-cli
install-cli: ## `sallyport`, and with it `kubectl sallyport`, where cargo installs programs
	$(CARGO) install --locked --path cli
	@cd "$${CARGO_HOME:-$$HOME/.cargo}/bin" && ln -sf sallyport kubectl-sallyport

.PHONY: renewals
renewals: setup cluster-binaries images-dev ## a pod's certificate through two renewals of a real kubelet (up to 36 minutes)
	$(CARGO) test --package sallyport-e2e --test stories -- --ignored --nocapture two_renewals

.PHONY: regress
regress: setup ## the whole of PostgreSQL's own regression suite, direct and through the proxy (some minutes)
	$(CARGO) build --workspace --bin sallyport-proxy
	$(CARGO) test --workspace --test regress --test sql_regress -- --ignored --nocapture

.PHONY: fuzz
fuzz: setup ## each fuzz target for SECONDS (60), with a nightly compiler; TARGETS names some of them
	@hack/fuzz.sh run $(SECONDS) $(TARGETS)

.PHONY: fuzz-keep
fuzz-keep: setup ## what `make fuzz` has found, as few and as small as can be, into the corpora that git holds
	@hack/fuzz.sh keep $(TARGETS)

.PHONY: bench
bench: setup ## ratios of throughput and CPU beside direct and pgbouncer, and latencies of change
	@PROFILE=release hack/bench.sh
