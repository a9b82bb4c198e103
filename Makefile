# The commands of a developer's day. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed

.PHONY: help venv demo bench-wire test chaos fuzz services check format flower clean

help:  ## list these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

$(READY): pyproject.toml constraints.txt scripts/make-venv
	@scripts/make-venv "$(PYTHON)" "$(VENV)"
	@touch "$(READY)"

venv: $(READY)  ## create or renew the environment in .venv

demo: $(READY)  ## broadcast to 100,000 generated devices, everything embedded (ARGS='--devices 20000 --json')
	@$(BIN)/pushq demo $(ARGS)

services: $(READY)  ## install the servers that the tests need, where that is possible
	@scripts/ensure-servers "$(BIN)/python"

test: $(READY)  ## environment, servers, all tests (ARGS='tests/unit -k name')
	@scripts/run-tests "$(BIN)/python" $(ARGS)

fuzz: $(READY)  ## random peers against the HTTP/2 client (ARGS='--minutes 10', or '--seed N' to see a finding again)
	@$(BIN)/python -m tests.fuzz $(ARGS)

chaos: $(READY)  ## every fault case, counted at the providers; minutes (ARGS='--cases 1,9a,17 --broker redis --rounds 10 --seed 7')
	@scripts/ensure-servers "$(BIN)/python"
	@$(BIN)/python -m tests.chaos $(ARGS)

check: $(READY)  ## ruff, formatting, mypy strict, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python scripts/import_directions.py

format: $(READY)  ## put the code into the format that check asks for
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

flower: $(READY)  ## Flower on http://127.0.0.1:5555 for the broker in PUSHQ_BROKER_URL
	$(BIN)/celery -A pushq.app flower --address=127.0.0.1 --port=5555

bench-wire: $(READY)  ## compare the sender with other HTTP/2 clients, about six minutes (ARGS='--rounds 1 --scale 0.1')
	$(BIN)/python -m pip install --quiet --no-input --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m benchmarks.wire --write $(ARGS)

clean:  ## remove the environment, caches and what a crashed demo left behind
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m pushq.embedded.sweep || true; fi
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info .pushq
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
