# Every target does its own set-up: the environment lies in .venv and is put right by tools/environment.py when it is
# missing, half made, or older than pyproject.toml, setup.py or the compiled pump's source.

PYTHON ?= python3
BIN := .venv/bin
SEED ?= 1
JOBS ?= 1000000
IMAGES ?= 100000
MINUTES ?= 4
KILLS ?=
ARGS ?=

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup compile demo test lint types check bench simulate crashes faults torture clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## make .venv with everything in it (other targets do this by themselves)
	@$(PYTHON) tools/environment.py

compile: setup ## compile the pump and the core anew, after a change of their sources
	@$(BIN)/python -m pip install -v --disable-pip-version-check --no-deps --editable . 2>&1 | grep 'relet: the' || true
	@$(BIN)/python broker.py --version

demo: setup ## a broker, two workers that drop 10 % of their jobs, and a client
	@$(BIN)/python -m relet.cli.demo $(ARGS)

test: setup ## run the tests (ARGS='-k endpoints' picks some)
	@$(BIN)/python -m pytest $(ARGS)

lint: setup ## ruff
	@$(BIN)/python -m ruff check .

types: setup ## mypy --strict on lib/
	@$(BIN)/python -m mypy

check: lint types test ## lint, types and tests

bench: setup ## measure the broker beside libzmq's own proxy (ARGS='--quick')
	@$(BIN)/python -m benchmarks $(ARGS)

simulate: setup ## play many small faulty worlds (SEED=1 JOBS=1000000)
	@$(BIN)/python -m relet.testing.simulate --seed $(SEED) --jobs $(JOBS) $(ARGS)

crashes: setup ## cut the power at every write of a store (IMAGES=100000 SEED=1 ARGS='--jobs 2')
	@$(BIN)/python -m tests.store.crash_images --images $(IMAGES) --seed $(SEED) $(ARGS)

torture: setup ## kill -9 broker, workers and clients at random, and account for every job (MINUTES=4 or KILLS=200, SEED=1)
	@$(BIN)/python -m relet.testing.torture --seed $(SEED) $(if $(KILLS),--kills $(KILLS),--minutes $(MINUTES)) $(ARGS)

faults: setup ## a real broker, with a fault at each call to the disk of its store (ARGS='--jobs 2 --only "eio sync"')
	@$(BIN)/python -m tests.end_to_end.store_faults $(ARGS)

clean: ## remove .venv and everything that was built
	@rm -rf .venv .venv.lock build dist benchmarks/build .pytest_cache .mypy_cache .ruff_cache .hypothesis lib/*.egg-info
	@find lib tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null; true
	@find lib -name '*.so' -delete
	@rm -rf lib/relet/_compiled
