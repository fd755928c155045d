# `make demo` and `make test` do everything on a fresh machine with Python 3.11+.
PYTHON ?= python3
# Where the CPU build of torch comes from when pip does not find it by itself.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH := torch==2.13.0+cpu

BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check

.PHONY: demo test install dev check clean lock

demo: install
	$(BIN)/netgpt demo

test: dev check
	$(BIN)/python -m pytest -n 2

# Formatting, types and the direction of imports.
check: dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: .venv/.installed
dev: .venv/.installed-dev

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "NetGPT needs Python 3.11 or newer; set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv

# --no-deps: the lock is complete, and three packages vLLM names must not be there (requirements/README.md).
.venv/.installed: requirements/cpu.txt pyproject.toml | .venv/bin/python
	@echo "installing torch and the locked packages (about two minutes)"
	$(PIP) install -q --no-deps "$(TORCH)" 2>/dev/null || $(PIP) install -q --no-deps --index-url $(TORCH_INDEX) "$(TORCH)"
	$(PIP) install -q --no-deps -r requirements/cpu.txt
	$(PIP) install -q --no-deps --no-build-isolation -e .
	touch $@

.venv/.installed-dev: requirements/dev.txt .venv/.installed
	$(PIP) install -q --no-deps -r requirements/dev.txt
	touch $@

# Write the locks from what is installed in .venv (after installing what changed).
lock:
	$(BIN)/python requirements/lock.py

clean:
	rm -rf .venv var build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
