# One environment, in .venv, for running, testing and checking. `make` alone lists the commands.
#
#   PYTHON=python3.12   the Python to build the environment with; otherwise the first below that is 3.10 or newer
#   TORCH=cpu           which build of PyTorch: cpu, cu128, … from PyTorch's own index. Left out, the usual one:
#                       on Linux that carries CUDA (some GB), on a Mac and on Windows it does not.
#   ARGS="…"            passed on to app.py or pytest

PYTHON ?= python3 python3.13 python3.12 python3.11 python3.10
TORCH ?=
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TORCH_INDEX := $(if $(TORCH),--extra-index-url https://download.pytorch.org/whl/$(TORCH))

.DEFAULT_GOAL := help
.PHONY: help setup run test test-thorough test-all bench report check docs-check format clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## build .venv with the versions in constraints.txt (again only when those change)

$(READY): requirements.txt constraints.txt pyproject.toml
	@test -x $(BIN)/python && exit; \
	for python in $(PYTHON); do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then \
	    $$python -m venv $(VENV) && exit; \
	    rm -rf $(VENV); echo "No venv: on Debian and Ubuntu, 'apt install python3-venv' brings it." >&2; exit 1; \
	  fi; \
	done; \
	echo "Python 3.10 or newer is needed, but is none of: $(PYTHON). Name one with PYTHON=…" >&2; exit 1
	@test -n "$(TORCH)" || test "$$(uname)" != Linux || command -v nvidia-smi >/dev/null || \
	  echo "No NVIDIA GPU seen. If PyTorch's download is too large, 'make setup TORCH=cpu' takes a smaller build."
	$(BIN)/python -m pip install --disable-pip-version-check --no-compile $(TORCH_INDEX) -c constraints.txt -e '.[dev]'
	@# Compiled on all processors, which pip does on one; what is no Python of this version is left as it is,
	@# and so are the tests of others.
	@$(BIN)/python -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib || true
	@touch $@

run: setup ## open the page; ARGS="--model … --port …"
	$(BIN)/python app.py $(ARGS)

test: setup ## the tests of every day, some minutes; ARGS="-k cache -x"
	@$(BIN)/python -m tests.chromium
	@$(BIN)/python -m tests.suite everyday $(ARGS)

test-thorough: setup ## all others: many sizes of every kernel, megabytes, crowds, break-ins
	@$(BIN)/python -m tests.chromium
	@$(BIN)/python -m tests.suite thorough $(ARGS)

test-all: setup ## both, in one go
	@$(BIN)/python -m tests.chromium
	@$(BIN)/python -m tests.suite all $(ARGS)

bench: setup ## how fast it writes here, beside transformers; ARGS="prefill --model …"
	$(BIN)/python -m jet.bench $(or $(ARGS),decode --model assets/story-model --baseline transformers)

report: setup ## what this machine does with the model; ARGS="--full --model …"
	$(BIN)/python -m jet.report $(ARGS)

check: setup ## lint, formatting, types, of Python and JavaScript
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -n auto jet app.py scripts
	@$(BIN)/python -m scripts.check_web

docs-check: setup ## links, paths and commands in the documents, and their marked examples
	$(BIN)/python -m scripts.check_docs

format: setup ## put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	@$(BIN)/python -m scripts.check_web --write

clean: ## remove the environment and every cache
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .gradio *.egg-info assets/web/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
