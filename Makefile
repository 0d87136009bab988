# `make demo` and `make test` set up .venv by themselves; a second run is quick.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check docs picture clean

demo: .venv/installed
	$(BIN)/smalti demo

test: check
	$(BIN)/pytest -n 2 -m "not slow"

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/python scripts/generate_docs.py --check

docs: .venv/installed-dev
	$(BIN)/mkdocs build --strict

picture: .venv/installed
	$(BIN)/smalti demo
	cp demo/towers.png docs/images/demo.png

clean:
	rm -rf .venv site

.venv/python:
	$(PYTHON) -m venv .venv
	touch $@

.venv/installed: pyproject.toml .venv/python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/installed-dev: pyproject.toml .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@
