# The commands of the house. `make` alone lists them.

RUNS ?= 1000000
ARGS ?=
TARGET = $(or $(CARGO_TARGET_DIR),target)

# What core must never depend on, for it does no I/O (ARCHITECTURE.md); and what would be a second TLS stack.
IO_CRATES = tokio|reqwest|sqlx|rand|hyper
TLS_CRATES = aws-lc-rs|aws-lc-sys|openssl|openssl-sys|native-tls|webpki-roots

.PHONY: help demo test check check-dependencies release bench soak clean

help: ## list what there is
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile

demo: ## watch transfers between two banks; ARGS=--keep stays up to try it with curl
	cargo build --profile demo -p amends-server
	$(TARGET)/demo/amends demo $(ARGS)

test: ## everything that must be green
	tests/run-all.sh

check: check-dependencies ## formatting, lints, links of the documentation, and rules about dependencies
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked -p amends --all-features --no-deps
	@for script in .ci/run server/*.sh tests/*.sh; do bash -n "$$script" || exit 1; done
	@echo 'check: ok'

# What `make test` checks as well: it takes no time.
check-dependencies:
	@tree=$$(cargo tree --locked -p amends -e normal --no-default-features --prefix none) || exit 1; \
	if echo "$$tree" | grep -E '^($(IO_CRATES)) '; then echo 'core does no I/O, so it must not depend on these'; exit 1; fi
	@if grep -E '^name = "($(TLS_CRATES))"' Cargo.lock; then \
	echo 'rustls on ring is the only TLS stack; who wants these: cargo tree -i NAME'; exit 1; fi
	@echo 'dependencies: ok'

release: ## the server as it is shipped, TARGET/pgo/amends: built anew with what a run of it under load showed; about 12 minutes
	server/release.sh

bench: ## measure against the floor of this machine, both built alike, then barriers; ARGS are those of amends-bench run
	cargo build --release -p amends-server -p amends-bench
	$(TARGET)/release/amends-bench run $(ARGS)
	$(TARGET)/release/amends-bench barrier --strict

soak: ## simulate RUNS faulty runs (1,000,000 by default); ARGS="--first N" begins at another seed
	cargo run --profile demo -p amends-simulation -- --runs $(RUNS) $(ARGS)

clean: ## remove what was built
	cargo clean
