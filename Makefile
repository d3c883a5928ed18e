# Every command a developer or a user needs; the work is done by infra/native and infra/check.
.DEFAULT_GOAL := help
.PHONY: help build demo demo-pgbench up down clean servers test test-lake test-postgres test-opensearch gauntlet-sinks gauntlet-reader fuzz mutants test-servers test-down bench bench-cdc bench-sinks bench-lake lint fmt reference reference-types \
	check-platform check-platform-quick check-readers

help: ## show this list
	@echo 'usage: make TARGET'
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' Makefile | expand -t 24
	@echo 'Ports, sizes and choices that can be set in the environment: infra/native/settings.sh'

demo: ## build, start a whole world on loopback, send orders through it, prove nothing is missing
	@infra/native/world.sh demo

demo-pgbench: ## the same over a database that was not made for it: pgbench's
	@infra/native/world.sh demo-pgbench

up: ## start the world again with the data it had
	@infra/native/world.sh up

down: ## stop exactly what was started, keep the data
	@infra/native/world.sh down

clean: ## stop it and remove its data
	@infra/native/world.sh clean

servers: ## only the world's servers: Postgres, Kafka, S3, OpenSearch
	@infra/native/world.sh servers

build: ## the binaries, with the profile of demo and tests
	@infra/native/world.sh build

test: ## all tests, against servers of their own
	@infra/native/test.sh run

test-lake: ## the tests of the lake, which compile a query engine first
	@infra/native/test.sh lake

test-postgres: ## the tests of the reader against Postgres 14, 16, 17 and 18; `make test` takes the distribution's
	@infra/native/test.sh postgres

test-opensearch: ## the tests of the index against OpenSearch 2.19; `make test` takes 3.6
	@infra/native/test.sh opensearch

gauntlet-sinks: ## sinks frozen, killed and cut off for half an hour, then compared record by record; `make test` has a short form
	@infra/native/test.sh gauntlet

gauntlet-reader: ## the reader killed 300 times, dead at every crash point, its servers crashed, then judged; `make test` has a short form
	@infra/native/test.sh gauntlet-reader

fuzz: ## bytes nobody should send, at everything of the reader that reads bytes, for ten minutes; needs no servers
	@infra/native/test.sh fuzz

mutants: ## mistakes made on purpose, and whether a test sees them; writes docs/mutants.md
	@infra/check/mutants.sh

test-servers: ## only the tests' servers, to run single tests by hand
	@infra/native/test.sh servers

test-down: ## stop the tests' servers, remove their data
	@infra/native/test.sh down

bench: ## throughput, CPU and memory as ratios to a bare loop, in release mode
	@infra/native/bench.sh

bench-cdc: ## the reader against its targets, in release mode, on servers of its own
	@infra/native/bench-cdc.sh --json .world-bench/bench-cdc.json

bench-sinks: ## the archive and search sinks against their targets, in release mode, on servers of its own
	@infra/native/bench-sinks.sh --json .world-bench-sinks/bench-sinks.json

reference: ## write docs/reference anew from the code
	@for page in config catalog commands metrics; do \
	  cargo run -q --bin tailwater -- config reference $$page > docs/reference/$$page.md || exit 1; \
	done

reference-types: ## write docs/reference/types.md anew from a real Postgres; after make test-servers
	@. .world-test/env && TAILWATER_WRITE_REFERENCE=1 \
	  cargo nextest run -p tailwater-cdc -E 'test(the_reference_page_of_types)'

bench-lake: ## the lake beside DuckDB and DataFusion over a gigabyte, in release mode
	@infra/bench-lake/bench.sh

lint: ## formatting, clippy, licences, dependency directions, scripts
	@infra/check/lint.sh

check-platform-quick: ## overlays, policies, compose files, rules, dashboard; seconds
	@infra/check/platform.sh quick

check-platform: ## the same, then a real Kubernetes API server, images and compose; minutes
	@infra/check/platform.sh all

check-readers: ## an archive through zcat, Python, Java, DuckDB, ClickHouse, DataFusion and Polars; needs no servers
	@infra/check/readers.sh

fmt: ## format Rust sources
	@cargo fmt --all
