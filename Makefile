# `make train` and `make test` set up .venv on first use; CONTRIBUTING.md has the same steps by hand.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
ARGS ?=
BIN = $(VENV)/bin
# One thread a test process: two processes with two threads each fight over two cores.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4

.PHONY: setup train test conformance deepspeed matrix oldest mutations lint baseline

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c $(CONSTRAINTS) -e ".[dev]"
	touch $@

train: setup
	$(BIN)/python train.py $(ARGS)

test: setup
	$(PYTEST) $(ARGS)

$(VENV)/.installed-conformance: $(VENV)/.installed
	$(BIN)/pip install --quiet -c $(CONSTRAINTS) -e ".[conformance]"
	touch $@

# The tests that transformers holds its own models to.
conformance: $(VENV)/.installed-conformance
	$(BIN)/python tests/conformance/run.py $(ARGS)

$(VENV)/.installed-deepspeed: $(VENV)/.installed
	$(BIN)/pip install --quiet -c $(CONSTRAINTS) -e ".[deepspeed]"
	touch $@

# Training with DeepSpeed's ZeRO against training with one process.
deepspeed: $(VENV)/.installed-deepspeed
	$(PYTEST) tests/test_launching.py -k deepspeed $(ARGS)

# The newest transformers with huggingface_hub 2.x, then 5.17 with 1.x.
matrix: test conformance oldest

oldest:
	$(MAKE) test VENV=$(VENV)-oldest CONSTRAINTS=constraints-oldest.txt
	$(MAKE) conformance VENV=$(VENV)-oldest CONSTRAINTS=constraints-oldest.txt ARGS="--models mini"

# Breaks the code in many ways, one at a time in a copy, and shows which test notices.
mutations: $(VENV)/.installed-conformance
	$(BIN)/python tests/mutations.py $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The n-gram model that the quickstart has to beat, on the same text.
baseline: setup
	$(BIN)/modeling-mini eval $(ARGS)
