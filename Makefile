# `make train` and `make test` set up .venv on first use; CONTRIBUTING.md has the same steps by hand.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN = $(VENV)/bin
# One thread a test process: two processes with two threads each fight over two cores.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4

.PHONY: setup train test lint baseline

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

train: setup
	$(BIN)/python train.py $(ARGS)

test: setup
	$(PYTEST) $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The n-gram model that the quickstart has to beat, on the same text.
baseline: setup
	$(BIN)/python benchmarks/ngram.py $(ARGS)
