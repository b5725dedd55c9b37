# headstream: everything a newcomer types. `make demo` and `make test` create what they need.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup system demo test test-slow test-rtx lint bench clean

help: ## say what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(READY) ## make the environment in .venv

$(READY): pyproject.toml constraints.txt | system
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "headstream needs Python 3.11 or newer; run: make setup PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "the venv module is missing; on Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.[export,train,dev]'
	@touch $@

system: # libraries that pip cannot bring
	@sh launch/system_libraries.sh

demo: $(READY) ## a simulated rig, live in your browser
	$(BIN)/headstream demo $(ARGS)

test: lint ## lint, types and the fast tests
	$(BIN)/pytest $(ARGS)

test-slow: $(READY) ## the tests that take longer
	$(BIN)/pytest -m slow $(ARGS)

test-rtx: $(READY) ## TensorRT plans, built without a GPU; installs TensorRT-RTX (95 MB, NVIDIA's licence)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[rtx]'
	$(BIN)/pytest -m 'slow or not slow' tests/models/test_tensorrt.py $(ARGS)

lint: $(READY) ## ruff and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY) ## print what the benchmarks measure on this machine
	$(BIN)/python -m benchmarks $(ARGS)

clean: ## remove the environment and what tools cached
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
