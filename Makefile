# Two commands set everything up: `make serve` and `make test`. ASSAY_* variables reach the server.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: serve test check fmt loadtest

serve: .venv/serve
	$(BIN)/assay serve

test: .venv/dev
	$(BIN)/python -m pytest

check: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

loadtest: .venv/dev
	$(BIN)/python -m loadtest $(or $(ARGS),pair)

.venv/serve: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) --editable '.[serve]'
	touch $@

.venv/dev: .venv/serve
	$(INSTALL) --editable '.[serve,dev]'
	touch $@
