# Everything runs in .venv, which `setup` makes once and again whenever pyproject.toml changes.
PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE ?= 1

.PHONY: setup demo test check docs screenshots bench lower-bounds clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    install, then the main job on embedded data: cache, fit, a table (no network after the install)"
	@echo "make test    install, then the quick test suite"
	@echo "make check   format, lint, import contracts, types"
	@echo "make docs    build the documentation into site/"
	@echo "make bench   measure, each figure beside its baseline"
	@echo "make screenshots    draw the pictures of the documentation anew (needs Chromium)"
	@echo "make lower-bounds   the quick tests with the oldest versions that pyproject.toml allows"

setup: .venv/ready

.venv/ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: setup
	@$(BIN)/embedcal demo

test: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

docs: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	$(BIN)/zensical build --strict

screenshots: setup
	$(BIN)/python docs/screenshots.py

bench: setup
	$(BIN)/python benchmarks/run.py

lower-bounds:
	test -x .lower/bin/python || $(PYTHON) -m venv .lower
	.lower/bin/python -m pip install --quiet --disable-pip-version-check -c tests/lower-bounds.txt -e '.[dev]'
	.lower/bin/python -m pytest -n 2 --dist worksteal -m "not slow"

clean:
	rm -rf .venv .lower site
