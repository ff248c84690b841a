# Two commands on a fresh machine: `make demo`, `make test`. Each target installs first what it needs.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Two workers on two cores; system tests start processes of their own and run one at a time.
WORKERS ?= 2

.PHONY: install demo test lint bench slow docs notebook clean help

help:            ## What can be made
	@grep -hE '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

install: $(STAMP)  ## Install fedcore and its tools into .venv

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "fedcore needs Python 3.11 or newer; $$($(PYTHON) --version) found. Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	# torch first and pinned: an open range would fetch gigabytes of CUDA libraries.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: install    ## Train over five hospitals, on real data, and compare with local-only and pooled
	$(BIN)/fedcore demo

lint: install    ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: install system-packages lint  ## Lint, types, unit tests, then the system tests
	$(BIN)/pytest -n $(WORKERS) -m "not system and not slow"
	$(BIN)/pytest -m "system and not slow" --durations=10

# PostgreSQL's and Chromium's tests skip with a reason when these cannot be installed.
.PHONY: system-packages
system-packages:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  test -n "$$(ls /usr/lib/postgresql/*/bin/initdb 2>/dev/null)" && command -v chromium >/dev/null || \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends postgresql chromium >/dev/null; } || \
	  echo "PostgreSQL and Chromium could not be installed; their tests will skip"; fi

slow: install    ## The heavier checks, and new examples for properties
	$(BIN)/pytest -m slow --durations=10
	HYPOTHESIS_PROFILE=search $(BIN)/pytest -n $(WORKERS) -m "not system and not slow"

bench: install   ## Regenerate the tables in docs/benchmarks.md
	$(BIN)/python benchmarks/regenerate.py

docs: install    ## Check the links, the exit codes and the commands that the documentation names
	$(BIN)/pytest tests/docs

notebook: install  ## Execute the notebooks in place
	$(BIN)/python examples/notebooks/execute.py

clean:           ## Remove what was made, but not runs/
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
