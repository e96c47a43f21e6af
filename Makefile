# From a clean clone, with Python 3.11 and make: `make demo` and `make test` build .venv by themselves.

SHELL := bash
PYTHON ?= python3.11 python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := tests/constraints.txt
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e
FAST := not slow and not real and not browser

# One job at a time, also under -j: two recipes at once would halve each other's measured speed.
.NOTPARALLEL:
.PHONY: help demo test test-browser test-long lint clean

help:  ## this list (ARGS="…" is passed on, PYTHON=… names the interpreter)
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1: \2/p' Makefile

demo: $(VENV)/test.stamp  ## the main job on the embedded organism
	$(BIN)/workbench demo $(ARGS)

# One thread per worker: workers times threads would ask for more cores than there are.
test: $(VENV)/test.stamp  ## the fast tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -m "$(FAST)" -n logical --maxprocesses 4 --dist loadfile $(ARGS)

test-browser: $(VENV)/browser.stamp  ## the views in JupyterLab and the reports, in a real Chromium
	WORKBENCH_BROWSER=required OMP_NUM_THREADS=1 $(BIN)/pytest -q -m "browser and not slow" \
	  --ignore tests/benchmarks -n 2 --dist loadfile $(ARGS)

test-long: $(VENV)/long.stamp  ## the slow tests; what they print is kept in tests/long/
	@mkdir -p tests/long
	@set -o pipefail; commit=$$(git describe --always --dirty 2>/dev/null || echo unknown); { \
	  echo "$$(date -u +%F), commit $$commit"; \
	  $(BIN)/python -c 'import os, platform as p; print(p.system(), p.machine(), os.cpu_count(), "cores")'; \
	  : "benchmarks without type checks, which would be measured too"; \
	  $(BIN)/pytest tests/benchmarks -o addopts= --no-header && \
	  $(BIN)/pytest -m "not ($(FAST))" --ignore tests/benchmarks --no-header --durations 20 $(ARGS); \
	} 2>&1 | tee tests/long/pytest.txt

lint: $(VENV)/lint.stamp  ## format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:  ## remove what can be rebuilt; runs and experiments stay
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is newer than pyproject.toml and the constraints once they are installed.
$(VENV)/test.stamp: pyproject.toml $(CONSTRAINTS)
	@for python in $(PYTHON); do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then break; fi; \
	  python=; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "No Python 3.11 or newer as $(PYTHON): install one, or name it with make PYTHON=/path/to/python3.11" >&2; \
	  exit 1; \
	fi; \
	echo "Installing into $(VENV): about two minutes the first time."; \
	$$python -m venv $(VENV)
	$(INSTALL) '.[test]'
	@touch $@

$(VENV)/%.stamp: $(VENV)/test.stamp
	$(INSTALL) '.[$*]'
	@touch $@
