# Everything runs in one virtual environment; the stamp keeps a second call from reinstalling.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench real studies docs api clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 8

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)  ## fine-tune a small network on digits, plain and regularised
	$(BIN)/python -m tether.demo

test: $(STAMP)  ## lint, types and all tests, with seconds by group
	$(BIN)/python tools/run_tests.py

lint: $(STAMP)  ## ruff and mypy only
	$(BIN)/python tools/run_tests.py lint

bench: $(STAMP)  ## cost of a step, by method, also under the Trainer
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.trainer

real: $(STAMP)  ## methods on real data (TETHER_SHARED), and the page of results
	$(BIN)/python -m benchmarks.real_runs
	$(BIN)/python -m benchmarks.real_page

studies: $(STAMP)  ## our own comparisons (TETHER_SHARED; hours), and their page
	$(BIN)/python -m benchmarks.run_studies

docs: $(STAMP)  ## the documentation, into docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

api: $(STAMP)  ## write tests/api_surface.json anew
	$(BIN)/python tools/api_surface.py --write

clean:  ## remove what builds and tests leave (the environment stays)
	rm -rf docs/_build docs/methods build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests tools docs benchmarks examples -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
