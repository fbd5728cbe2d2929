# Thin: what a target does stands in scripts/. Builds go to ~/.cache/keepline (KEEPLINE_CACHE).
.DEFAULT_GOAL := help
.PHONY: help demo build install package test test-fast test-long bench fuzz swarm-shell swarm-test

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## a session is lost, found and explained; then the state of this machine
	@scripts/demo

build: ## the release: one static file
	@scripts/build

install: ## binary, man pages, completions, the guard's unit below PREFIX (/usr/local)
	@PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" scripts/install

package: ## a Debian package
	@scripts/package

test: ## every suite, virtual machines included
	@scripts/test-all

test-fast: ## the same without virtual machines
	@scripts/test-all --fast

test-long: ## the scenarios in virtual machines that take too long for `test`: most of an hour
	@scripts/swarm test $$(grep -v '^#' tests/swarm/long)

bench: ## speed beside the shell pipeline, and of ways to one backend, from nothing to nothing
	@scripts/bench

fuzz: ## one parser for a minute: TARGET=sock_diag [SECONDS=60]
	@scripts/fuzz $(TARGET) $(SECONDS)

swarm-shell: ## a shell in a fresh virtual machine: [ARGS=…]
	@scripts/swarm shell $(ARGS)

swarm-test: ## tests in virtual machines by name: SCENARIO=…
	@scripts/swarm test $(SCENARIO)
