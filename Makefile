# make setup | demo | test | long | simulate | fuzz | chaos | soak | lint | format | bench | lock | wheel | clean. Needs Python 3.11 or later, git, and Java 17 or later for Spark.
# All of it is plain pip in a virtual environment of its own; PYTHON names the interpreter that makes it.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# What a test run is given: make test TESTS="tests/reservoir -k sealed".
TESTS ?= tests
# Many tests wait for processes; two at a time, each file on one worker, take two thirds of the time of one.
WORKERS ?= 2
BENCHMARKS ?=
BENCH_SECONDS ?= 1
BENCH_RESULTS ?= benchmarks/results

.DEFAULT_GOAL := help
.PHONY: help setup demo test long simulate fuzz chaos soak lint format bench lock wheel clean machine

help: ## Show this.
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

machine:
	@.ci/machine $(PYTHON)

setup: machine $(STAMP) ## Make the environment in .venv; does nothing when it is there.

# Hashes for everything that is downloaded; hatchling is in the lock, so nothing is fetched to build.
$(STAMP): requirements-dev.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: setup ## Emulator, publisher, daemon and a Spark query, ending in a summary.
	$(BIN)/penstock demo $(ARGS)

test: setup ## All tests but the longest, or those of TESTS="...".
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not long" $(TESTS)

long: setup ## The longest tests: killed drivers, leaks, a short soak, Google's own fake of Pub/Sub.
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m long $(TESTS)

simulate: setup ## Random histories of the whole protocol. ARGS="--seeds 1000 --first 0"
	$(BIN)/python -m tests.simulation $(ARGS)

lint: setup ## Style, types, and who imports whom.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## Lay the code out, and mend what can be mended.
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

fuzz: setup ## Random bodies, bytes, options and files. ARGS="--examples 5000 -k stored"
	$(BIN)/python -m tests.fuzz $(ARGS)

chaos: setup ## Faults on real processes for 10 minutes: ARGS="--minutes N --seed S --json PATH --picture PATH".
	$(BIN)/python -m tests.chaos $(ARGS)

soak: setup ## Leases of 2 M messages held beside a load: ARGS="--minutes 5 --held 2000000 --deadline 10 --json PATH".
	$(BIN)/python -m tests.soak $(ARGS)

bench: setup ## The short form of every benchmark; results as JSON in benchmarks/results. BENCHMARKS="serve decode" some.
	$(BIN)/python -m benchmarks --seconds $(BENCH_SECONDS) --json $(BENCH_RESULTS) $(BENCHMARKS)

# Names, versions and hashes for Python 3.11 to 3.14; where they are downloaded from is not in the file.
lock: ## Write requirements-dev.lock anew (needs uv); UPGRADE=--upgrade takes the newest of all.
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --no-annotate --quiet $(UPGRADE) -o requirements-dev.lock

wheel: setup ## Build dist/penstock-*.whl.
	rm -rf dist
	$(BIN)/python -m build --wheel --no-isolation --outdir dist .

clean: ## Remove what can be made again.
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache spark-warehouse
