# Two commands set everything up: `make serve` and `make test`. ASSAY_* variables reach the server.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Each forbids a version that is pinned; what they need of their requirements is in the extra 'clients'.
CLIENTS := infinity-client litellm reward-hub

# Tests that start no server, compile nothing and load no torch in this process: under two minutes.
FAST := tests/api tests/backends/test_remote.py tests/cards tests/prompts tests/reference tests/reward \
	tests/scheduling tests/telemetry tests/test_architecture.py tests/test_documented.py tests/test_errors.py \
	tests/test_settings.py tests/test_wire.py tests/test_worker_protocol.py
# A third process computes while others wait for what they test; long files are begun first.
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder
SLOW := tests/telemetry/test_tracing.py tests/prompts/test_process.py

.PHONY: serve test test-fast check docs audit bill requirements digests fmt loadtest soak overload chaos \
	fuzz gpu gpu-packages

serve: .venv/serve
	$(BIN)/assay serve

test: .venv/dev
	$(PYTEST)

test-fast: .venv/dev
	$(PYTEST) $(FAST) $(SLOW:%=--ignore=%)

check: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) docs
	$(MAKE) bill
	.ci/audit

# The documentation as a site, into site/; a link to nowhere is an error. Nothing is fetched.
docs: .venv/dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Every pinned version against the vulnerabilities that PyPI knows of it.
audit: .venv/dev
	$(BIN)/pip-audit --strict --no-deps --disable-pip --progress-spinner off --requirement constraints.txt
	$(BIN)/pip-audit --strict --require-hashes --disable-pip --progress-spinner off \
		--requirement deploy/requirements.txt --requirement deploy/build-requirements.txt

# What is installed here and why, as CycloneDX: a software bill of materials, valid by its schema.
bill: .venv/dev
	mkdir -p build
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file build/bill.json

# What the image installs, by the hashes of its files as the package index states them: for x86-64 and
# ARM alike, as far as they need the same packages. Run it after a change of constraints.txt or of
# what pyproject.toml asks for.
LOCK := $(BIN)/uv pip compile --quiet --upgrade --generate-hashes --only-binary :all: --no-annotate \
	--custom-compile-command 'make requirements' --constraints constraints.txt \
	--python-version 3.12 --python-platform x86_64-manylinux_2_39
requirements: .venv/dev
	$(INSTALL) uv
	$(LOCK) --extra serve --extra tracing --output-file deploy/requirements.txt pyproject.toml
	$(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['build-system']['requires'], sep='\n')" | \
		$(LOCK) --output-file deploy/build-requirements.txt -

# What the images that aren't ours are by content, into .env, which docker compose reads.
digests:
	deploy/digests

fmt: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

loadtest: .venv/dev
	$(BIN)/python -m loadtest $(or $(ARGS),pair)

# Some twenty minutes on a quiet machine: far too much to do, then everything going wrong at once.
soak: overload chaos

overload chaos: .venv/dev
	$(BIN)/python -m loadtest $@ $(ARGS)

# On a machine with a GPU, torch and transformers: seven minutes, and nothing is fetched. The packages
# that it lacks are carried in build/gpu, which `make gpu-packages` fills where there is a network.
gpu:
	PYTHONPATH=service:build/gpu $(PYTHON) -m loadtest.gpu $(ARGS)

gpu-packages:
	$(PYTHON) -m loadtest.carried build/gpu

fuzz: .venv/dev
	$(BIN)/python -W ignore -m tests.fuzz $(ARGS)

.venv/serve: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) --editable '.[serve]'
	touch $@

.venv/dev: .venv/serve
	$(INSTALL) --editable '.[serve,dev]'
	$(INSTALL) --no-deps $(CLIENTS)
	touch $@
