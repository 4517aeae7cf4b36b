# make demo   the whole pipeline on the embedded data set; prints the path of the report last
# make test   lint, types and tests: 5 minutes on 2 cores
# make long   the long tests: kills, full disks, several processes, browser, the same bytes: 5 minutes
# make slurm  the real stages on a real Slurm of one node, with kills: some minutes; left out without slurm-wlm and munge
# make quick  lint, types and the tests of what was changed since main, without the slow ones: under a minute
# make lint   lint and types only
# make faults the faults of `make long` over and over, and more of them: hours; prints a table (FAULTS="--only kill --times 5")
# make bench  every benchmark, and the tables of benchmarks/README.md; ARGS=--quick only shows that they run
# make bench-gpu what a GPU makes of the pipeline, in under eight minutes; leaves benchmarks/gpu.json
# make docs   docs/ and the Python API, from docstrings, as pages in build/docs: seconds, no network
# make notebooks  runs notebooks/quickstart.ipynb on a small data set: a minute
# make clean  remove the environment and the tools' caches; artifacts/ stays
#
# Each target makes the environment if needed. PYTHON=python3.12 picks the interpreter, VENV=DIR the environment's place,
# ARGS="--set train.steps=100" adds to the demo's command.

PYTHON ?= python3
VENV ?= .venv
# a few processes share the cores in the sharded stages; more than four pay for their start only on larger data
WORKERS ?= $(shell n=$$(nproc 2>/dev/null || echo 1); echo $$((n < 4 ? n : 4)))
ARGS ?=

BIN := $(VENV)/bin
# files in the order of tests/conftest.py: slow ones first
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
RUN_STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
BENCH_STAMP := $(VENV)/.installed-bench
DOCS_STAMP := $(VENV)/.installed-docs

.PHONY: help demo test long slurm quick lint faults bench bench-gpu docs notebooks clean
.DEFAULT_GOAL := help

help:
	@sed -n '/^$$/q;s/^# //p' Makefile

demo: $(RUN_STAMP)
	@$(BIN)/python run_pipeline.py Report --dataset shapes --workers $(WORKERS) $(ARGS)

test: lint
	@$(BIN)/python -m pytest $(PARALLEL) -m "not long"

long: $(DEV_STAMP)
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	    echo "make: no Chromium here: the tests that open the pages in a browser are left out (apt-get install chromium)"
	@$(BIN)/python -m pytest $(PARALLEL) -m long

slurm: $(DEV_STAMP)
	@$(BIN)/python -m pytest -q tests/slurm/check_slurm.py

quick: lint
	@$(BIN)/python -m pytest -q $(PARALLEL) -m "not slow and not long" $$($(BIN)/python -m tests.changed)

lint: $(DEV_STAMP)
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m mypy

faults: $(DEV_STAMP)
	@$(BIN)/python -m tests.faults $(FAULTS)

bench: $(BENCH_STAMP)
	@$(BIN)/python -m benchmarks.bench $(ARGS)

bench-gpu: $(RUN_STAMP)
	@$(BIN)/python -m benchmarks.gpu --device cuda --json benchmarks/gpu.json $(ARGS)

docs: $(DOCS_STAMP)
	@$(BIN)/python -m mkdocs build --quiet --strict
	@echo build/docs/api.html

notebooks: $(DOCS_STAMP)
	@QUICKSTART="shapes.train_scenes=24 shapes.val_scenes=6 train.steps=10 train.warmup=2" \
	    $(BIN)/jupyter execute notebooks/quickstart.ipynb

clean:
	rm -rf "$(VENV)" .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -not -path './artifacts/*' -prune -exec rm -rf {} +

# A stamp is touched only after a complete install, so an interrupted one is taken up again.
$(BIN)/python:
	@command -v "$(PYTHON)" >/dev/null 2>&1 || { \
	    echo "make: no $(PYTHON) found; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "make: $$("$(PYTHON)" --version) is too old; expected 3.11 or newer: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "make: $(PYTHON) has no venv module; install it (Debian and Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
	@echo "making the environment $(VENV)"
	@"$(PYTHON)" -m venv "$(VENV)"

$(RUN_STAMP): pyproject.toml $(BIN)/python
	@echo "installing what the pipeline needs (the first time takes some minutes: torch is large)"
	@$(PIP) install -e .
	@touch $@

$(DEV_STAMP): $(RUN_STAMP)
	@echo "installing what the tests and linters need"
	@$(PIP) install -e '.[dev]'
	@touch $@

$(BENCH_STAMP): $(RUN_STAMP)
	@echo "installing what the benchmarks need"
	@$(PIP) install -e '.[bench]'
	@touch $@

$(DOCS_STAMP): $(RUN_STAMP)
	@echo "installing what the pages of the docs and the notebooks need"
	@$(PIP) install -e '.[docs]'
	@touch $@
