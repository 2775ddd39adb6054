# Works on a fresh machine with python3 (3.11 or later) and make.
# The virtual environment is made once; uv.lock fixes every version in it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
export UV_PROJECT_ENVIRONMENT := $(VENV)
# Compiled once here, not by every process: some machines forbid Python to keep what it compiled.
export UV_COMPILE_BYTECODE := 1

.PHONY: setup demo test test-slow lint types format docs bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml uv.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	$(BIN)/uv sync --quiet --frozen --inexact --extra train --extra segment --extra review --extra report --extra track
	touch $@

demo: setup
	$(BIN)/loupe demo --out demo

test: lint types
	$(BIN)/python -m pytest -q -n auto --dist loadfile -m "not slow and not gpu"

test-slow: setup
	$(BIN)/python -m pytest -q -m "slow and not gpu"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup
	$(BIN)/python -m docs.generate
	$(BIN)/python -m docs.plots

# make bench DATA=folder-with-labels.csv-and-images WEIGHTS=folder-of-safetensors
bench: setup
	$(BIN)/python -m benchmarks.main_job --data "$(DATA)" --weights "$(WEIGHTS)"

clean:
	rm -rf $(VENV) demo runs
