# Everything a person or a CI machine does with this repository. `make` alone lists the targets.
#
# The first use of a target makes $(VENV) and installs what that target needs; a stamp in $(VENV) says that it is done, so
# that the next use starts at once. No compiler is needed: the kernels are compiled by Numba when they first run.

PYTHON ?= python3
VENV ?= .venv
MODEL ?= smollm2-135m
PROMPT ?= Why is the sky blue? Answer in two sentences.
ARGS ?=

# Words with quotes or spaces reach the shell as they are, through its environment.
export MODEL PROMPT
# Tests start many processes, and each would compile all modules anew if none were allowed to keep them.
unexport PYTHONDONTWRITEBYTECODE

BIN := $(VENV)/bin
# Modules are compiled when they are first imported: most of them never are.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
SOURCES := src tests benchmarks docs
SLOW := slow or model or compare
APART := clients or long or cluster

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run chat serve doctor models test test-fast test-slow test-long test-console-all test-clients .test-clients test-cluster .test-cluster chaos test-aarch64 lint format types check \
	bench bench-peers walk fuzz docs figures site screenshots wheels console clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## */\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

run: $(VENV)/.ready ## answer one question: make run PROMPT="..." [MODEL=name]
	@$(BIN)/miaotui run "$$MODEL" "$$PROMPT"

chat: $(VENV)/.ready ## talk with a model: make chat [MODEL=name]
	@$(BIN)/miaotui chat "$$MODEL"

serve: $(VENV)/.ready ## serve a model over HTTP on 127.0.0.1:8000: make serve [MODEL=name] [ARGS="--port 9000"]
	@$(BIN)/miaotui serve "$$MODEL" $(ARGS)

doctor: $(VENV)/.ready ## what this machine can do
	@$(BIN)/miaotui doctor

models: $(VENV)/.ready ## fetch the models that the tests use
	@$(BIN)/miaotui pull smollm2-135m
	@$(BIN)/miaotui pull gemma3-270m
	@$(BIN)/miaotui pull qwen2.5-coder-0.5b

test: $(VENV)/.ready-test models ## all tests but those that compare with torch
	$(BIN)/python -m pytest -m "not (compare or $(APART))" $(ARGS)

test-fast: $(VENV)/.ready-test ## the tests that need no model; under a minute (one process: ARGS="-n 0")
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not ($(SLOW) or $(APART))" $(ARGS)

test-slow: $(VENV)/.ready-compare models ## the other tests: real models, and torch beside them
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "($(SLOW)) and not ($(APART))" $(ARGS)

test-long: $(VENV)/.ready-compare models ## the whole of what slow tests take samples of
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m long $(ARGS)

test-console-all: $(VENV)/.ready-test console/node_modules/.ready ## every journey through the console, in both languages at both widths (needs Chromium)
	MIAOTUI_CONSOLE_ALL=1 $(BIN)/python -m pytest -m "" -rA --show-capture=no tests/serve/console $(ARGS)

test-clients: ## LiteLLM, LangChain and schemathesis against the server, in an environment of their own
	@$(MAKE) --no-print-directory VENV=$(VENV)-clients .test-clients

.test-clients: $(VENV)/.ready-clients
	$(BIN)/python -m pytest -m clients $(ARGS)

test-cluster: ## a cluster on three raylets: 100 kills, 1,000 requests while it scales, and the simulator, in an environment of its own
	@$(MAKE) --no-print-directory VENV=$(VENV)-cluster .test-cluster

.test-cluster: $(VENV)/.ready-cluster
	MIAOTUI_KILLS=100 MIAOTUI_REQUESTS=1000 $(BIN)/python -m pytest -s -m cluster tests/cluster $(ARGS)
	$(BIN)/python -m benchmarks.serving.cluster_simulator

chaos: $(VENV)/.ready-test ## ten minutes of random requests from clients that vanish
	$(BIN)/python -m benchmarks.serving.chaos $(ARGS)

test-aarch64: ## the kernel tests for 64-bit ARM, emulated (needs qemu-user and Debian's cross tools)
	tests/aarch64/run.sh

lint: $(VENV)/.ready-lint ## style and likely mistakes
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

format: $(VENV)/.ready-lint ## put the code into shape
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

types: $(VENV)/.ready-lint ## strict type check of the package and the benchmarks
	$(BIN)/mypy --strict

check: lint types site test-fast test-slow ## what CI runs

bench-peers: $(VENV)/.ready-test ## install the other engines that `make bench` compares with
	$(BIN)/python -m benchmarks.peers.install setup

bench: $(VENV)/.ready-test ## measure, beside other engines where they are installed
	$(BIN)/python -m benchmarks.peers.speed $(ARGS)

walk: $(VENV)/.ready-test ## list the Python files that one token and one HTTP chat pass
	$(BIN)/python -m benchmarks.serving.walk $(ARGS)

FUZZ ?= gguf

fuzz: $(VENV)/.ready-fuzz ## feed broken files to the readers until stopped (FUZZ=gguf, models, onnx, whisper, audio, ctranslate2, marian, encoder_folders or stored_models)
	$(BIN)/python tests/fuzz/fuzz_$(FUZZ).py $(ARGS)

docs: $(VENV)/.ready ## write docs/cli.md from the program's own help; copy examples into docs/zh
	$(BIN)/python docs/make_cli.py

figures: $(VENV)/.ready ## write docs/figures.md from the JSON lines of benchmarks in docs/figures.jsonl
	@$(BIN)/python docs/make_figures.py

site: $(VENV)/.ready-docs ## build the documentation as a site into build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

screenshots: $(VENV)/.ready-test ## take the pictures of the console for README and docs/ (needs Chromium and Pillow)
	$(BIN)/python docs/make_pictures.py

console: console/node_modules/.ready ## build the console's page into the package (needs Node.js 20 or later)
	cd console && npm run --silent types && node build.mjs

console/node_modules/.ready: console/package-lock.json
	@command -v npm >/dev/null || { echo "make: no npm here. On Debian and Ubuntu: apt install npm" >&2; exit 1; }
	cd console && npm ci --no-fund --no-audit
	@touch $@

wheels: $(VENV)/.ready-test ## check that every default dependency has wheels for all supported systems
	$(BIN)/python docs/wheels.py

clean: ## remove what this file made; downloaded models stay
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- the environment -------------------------------------------------------------------------------------------------

$(VENV)/.python:
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "make: no $(PYTHON) here. Install Python 3.10 or later, or name one: make PYTHON=/path/to/python3" >&2; \
		exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "make: $$("$(PYTHON)" --version 2>&1) is too old; miaotui needs Python 3.10 or later." \
			"Name another one: make PYTHON=/path/to/python3" >&2; \
		exit 1; }
	@echo "Making $(VENV) (once) ..."
	@"$(PYTHON)" -m venv --clear "$(VENV)" || { \
		echo "make: cannot make $(VENV). On Debian and Ubuntu: apt install python3-venv" >&2; \
		rm -rf "$(VENV)"; exit 1; }
	@touch $@

$(VENV)/.ready: pyproject.toml | $(VENV)/.python
	@echo "Installing miaotui into $(VENV) (once) ..."
	@$(PIP) --editable .
	@touch $@

$(VENV)/.ready-test: $(VENV)/.ready
	@echo "Installing what the tests need ..."
	@$(PIP) --editable '.[otel,vectors,spelling,apps,test,browser]'
	@touch $@

$(VENV)/.ready-lint: $(VENV)/.ready-test
	@echo "Installing ruff and mypy ..."
	@$(PIP) --editable '.[lint]'
	@touch $@

# torch alone first: asked for together with others, pip may settle on a build that brings gigabytes of CUDA.
$(VENV)/.ready-compare: $(VENV)/.ready-test
	@echo "Installing torch and transformers ..."
	@$(PIP) 'torch==2.13.0'
	@$(PIP) --editable '.[compare]'
	@touch $@

$(VENV)/.ready-docs: $(VENV)/.ready
	@echo "Installing what the site needs ..."
	@$(PIP) --editable '.[docs]'
	@touch $@

# These bind older versions of libraries that we use too; so they never share an environment with the other tests.
$(VENV)/.ready-clients: $(VENV)/.ready-test
	@echo "Installing other clients ..."
	@$(PIP) --editable '.[clients]'
	@touch $@

# Ray takes 300 MB: only who tests clusters needs it.
$(VENV)/.ready-cluster: $(VENV)/.ready-test
	@echo "Installing Ray ..."
	@$(PIP) --editable '.[cluster]'
	@touch $@

$(VENV)/.ready-fuzz: $(VENV)/.ready-test
	@echo "Installing atheris ..."
	@$(PIP) 'atheris>=2.3'
	@touch $@
