# Each verb sets up what it needs, so the first one typed on a fresh machine works.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup demo serve test lint bench
help:
	@echo "make setup   install everything into .venv"
	@echo "make demo    start the server, moderate sample posts, stay up (ONCE=1: stop and check)"
	@echo "make serve   start the server on 127.0.0.1:8000"
	@echo "make test    run the tests"
	@echo "make lint    ruff and mypy"
	@echo "make bench   every benchmark, quick"

setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable ".[local,demo,dev]"
	touch $@

demo: setup
	$(BIN)/parakh demo $(if $(ONCE),--once)

serve: setup
	$(BIN)/parakh models prepare
	$(BIN)/parakh serve

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m benchmarks --quick
