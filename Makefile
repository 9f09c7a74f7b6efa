# What a contributor or a new user does, by name. `make demo` and `make test` set up everything they need.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
DEMO   ?= demo-output
# the tests share two cores with the servers they start
JOBS   ?= 2
# such as: make test TESTS="tests/tables tests/plans" PYTEST="--durations=25"
TESTS  ?= tests
PYTEST ?=

# what pandas itself changes between 2.2 and 3: dtypes of text, copies, indexes
PANDAS2_VENV  := .venv-pandas2
PANDAS2_STAMP := $(PANDAS2_VENV)/.installed
PANDAS2_TESTS ?= tests/tables tests/plans tests/execution tests/api

AUDIT_VENV := .venv-audit

.PHONY: help demo demo-clean test test-pandas2 lock audit lint format bench workloads chaos machine soak planner notebook schema errors docs clean

help:  ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# The stamp is the last step: an installation that was interrupted is begun again.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python >= 3.11 is needed; make PYTHON=python3.12 ... names another")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (once; some minutes)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[local,dev]'
	@touch $@

$(PANDAS2_STAMP): pyproject.toml
	@test -x $(PANDAS2_VENV)/bin/python || $(PYTHON) -m venv $(PANDAS2_VENV)
	@echo "installing into $(PANDAS2_VENV) (once; some minutes)"
	@$(PANDAS2_VENV)/bin/python -m pip install -qq --disable-pip-version-check --editable '.[test]' 'pandas<3'
	@touch $@

demo: $(STAMP)  ## run the main job on a small folder of files with the embedded model: no key needed
	@$(BIN)/python -m apwa_dask.demo --output $(DEMO)

demo-clean:  ## forget the demo's answers, so that it calls the model again
	rm -rf $(DEMO)

test: $(STAMP)  ## the whole test suite
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST) $(TESTS)

test-pandas2: $(PANDAS2_STAMP)  ## the rooms that touch frames, under pandas 2
	$(PANDAS2_VENV)/bin/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST) $(wildcard $(PANDAS2_TESTS))

machine: $(STAMP)  ## a longer random search over runs, kills, resumes, retries and edits (EXAMPLES=300)
	APWA_EXAMPLES=$(or $(EXAMPLES),300) $(BIN)/python -m pytest tests/execution/test_state_machine.py tests/execution/test_planted_defects.py

chaos: $(STAMP)  ## 100,000 rows while a worker dies every 5 seconds; the seed is printed
	APWA_CHAOS_ROWS=100000 APWA_CHAOS_WORKERS=4 APWA_CHAOS_DEATH_EVERY_S=5 APWA_CHAOS_TIMEOUT_S=7200 \
		$(BIN)/python -m pytest --timeout 7500 tests/faults/test_chaos.py

soak: $(STAMP)  ## 1,000,000 rows in one process: memory, threads and files stay flat; a table of 10,000 tiny partitions
	APWA_SOAK_ROWS=1000000 $(BIN)/python -m pytest --timeout 7500 tests/faults/test_process_limits.py -k fault_42
	APWA_TINY_PARTITIONS=10000 $(BIN)/python -m pytest --timeout 1800 tests/faults/test_workers_layout.py

lint: $(STAMP)  ## style, types and the import directions of the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)  ## put the style right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## overhead, one limit for many processes, the coordinator at scale, resuming a million rows, tiny partitions; PEERS="--peers" also the libraries that are installed
	$(BIN)/python benchmarks/overhead.py --cases A,B,C,D,E,G $(PEERS)
	$(BIN)/python benchmarks/limits.py
	$(BIN)/python benchmarks/limits.py --learned --minutes 3
	$(BIN)/python benchmarks/limits.py --tpm 120000 1200000 --minutes 1
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python benchmarks/resume.py
	$(BIN)/python benchmarks/layout.py

workloads: $(STAMP)  ## redaction, schema extraction, summaries beside one agent, one chat and naive Dask (SCALE=full)
	$(BIN)/python -m benchmarks.apwa --scale $(or $(SCALE),small) $(ARGS)

planner: $(STAMP)  ## every planner query end to end over gold answers; MODEL=local: how well that model plans
ifdef MODEL
	$(BIN)/python benchmarks/planner.py --model $(MODEL)
else
	APWA_PLANNER=all $(BIN)/python -m pytest -q tests/manager/test_suite.py
endif

notebook: $(STAMP)  ## execute the notebooks in place in a real kernel
	$(BIN)/python notebooks/execute.py

$(AUDIT_VENV)/.installed:
	@test -x $(AUDIT_VENV)/bin/python || $(PYTHON) -m venv $(AUDIT_VENV)
	@$(AUDIT_VENV)/bin/python -m pip install -qq --disable-pip-version-check uv pip-audit
	@touch $@

lock: $(AUDIT_VENV)/.installed  ## write the locks of the container from pyproject.toml; UPGRADE=1 takes newer versions
	UV=$(CURDIR)/$(AUDIT_VENV)/bin/uv docs/deployment/lock.sh $(if $(UPGRADE),--upgrade)

audit: $(AUDIT_VENV)/.installed  ## look up every locked version in a database of known vulnerabilities
	$(AUDIT_VENV)/bin/pip-audit --strict --disable-pip --require-hashes -r docs/deployment/requirements.lock \
		-r docs/deployment/requirements-build.lock

schema: $(STAMP)  ## write docs/reference/manifest.schema.json from the manifest's types
	$(BIN)/python docs/write_manifest_schema.py

errors: $(STAMP)  ## write docs/errors.md from the catalogue of error codes
	$(BIN)/python docs/write_errors.py

docs: errors  ## build the documentation into docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

clean:  ## remove what the targets made, but for the virtual environments
	rm -rf $(DEMO) docs/_build docs/notebooks .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
