# Every target sets up what it needs: `make demo` and `make test` work on a fresh clone.
PYTHON ?= python3
BUDGET ?= 8
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ROOMS := qvggt export engines calib eval tests tools

.DEFAULT_GOAL := help
.PHONY: help setup test test-slow test-gpu gpu-proof gpu-bundle lint check-lint format docs picture stress mutation demo clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14
	@echo "PYTHON=python3.12 picks the Python that .venv is made with (3.10 or newer; run make clean before a change)."

setup: $(STAMP)  ## Make .venv and install qvggt with its tested dependencies

# pip, not python, is looked for: an interrupted or half-supported venv has only the latter
$(STAMP): pyproject.toml constraints.txt tools/editable.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: qvggt needs Python 3.10 or newer; run: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || \
		{ echo "error: $(PYTHON) cannot make a virtual environment; on Debian: apt install python3-venv" >&2; exit 2; }
	@echo "installing qvggt and its dependencies into $(VENV) (minutes where PyTorch is downloaded)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@$(BIN)/python tools/editable.py
	@touch $(STAMP)

test: $(STAMP)  ## Run the default test suite, a process for each of up to four cores
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-slow: $(STAMP)  ## Run the 1B-scale and other long tests
	@$(BIN)/python -m pytest -m slow

test-gpu: $(STAMP)  ## Run the tests that need an NVIDIA GPU (QVGGT_GPU_MODEL=FOLDER: on a checkpoint of yours)
	@$(BIN)/python -m pytest -m gpu tests/gpu

# without .venv, the packages of a machine that has PyTorch: make gpu-proof needs no package index
gpu-proof:  ## What an NVIDIA GPU makes of VGGT-1B in BUDGET minutes (8): docs/results/gpu.json
	@$(if $(wildcard $(STAMP)),$(BIN)/python,$(PYTHON)) tools/gpu_proof.py --budget $(BUDGET)

gpu-bundle: $(STAMP)  ## Packages and calibrated models for make gpu-proof where there is no package index (minutes)
	@$(BIN)/python tools/gpu_bundle.py

lint: $(STAMP)  ## ruff (rules and format) and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python tools/typecheck.py

check-lint: export OMP_NUM_THREADS = 1
check-lint: $(STAMP)  ## The legality lint against TensorRT-RTX's layer table, over every form of file (minutes, no GPU)
	@$(BIN)/python tools/check_lint.py -o outputs/check_lint.json

format: $(STAMP)  ## Let ruff rewrite the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(STAMP)  ## These pages and the reference of every function as a searchable site in build/docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	@echo build/docs/index.html

picture: demo  ## docs/picture.png, from the files of make demo
	@$(BIN)/python tools/readme_picture.py outputs/demo

stress: export OMP_NUM_THREADS = 1
stress: $(STAMP)  ## Robustness: kills, full disks (docs/results/stress.json), then damaged inputs of every kind
	@$(BIN)/python tools/stress.py
	@$(BIN)/python -m pytest -m slow tests/robustness --hypothesis-seed=0

mutation: $(STAMP)  ## Do the tests bite: faults are planted, some test has to see each (hours; resumes)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt cosmic-ray
	@nice -n 10 $(BIN)/python tools/mutation.py -o docs/results/mutation.json

demo: $(STAMP)  ## Scenes -> w8a8 and w4a4 ONNX -> ONNX Runtime -> table, page with pictures, JSON in outputs/demo
	@$(BIN)/qvggt deploy tiny --format w8a8,w4a4 --baselines rtn -o outputs/demo

clean:  ## Remove .venv, caches, builds and outputs/demo (the rest of outputs/ is yours and stays)
	rm -rf $(VENV) outputs/demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(ROOMS) -name __pycache__ -type d -prune -exec rm -rf {} +
