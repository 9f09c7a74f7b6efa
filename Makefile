# What a contributor or a new user does, by name. `make demo` and `make test` set up everything they need.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
DEMO   ?= demo-output
# the tests share two cores with the servers they start
JOBS   ?= 2

.PHONY: help demo demo-clean test test-all lint format types imports check bench notebook clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[local,dev]'
	@touch $@

demo: $(STAMP)  ## run the main job on a small folder of files with the embedded model: no key needed
	$(BIN)/python -m apwa_dask.demo --output $(DEMO)

demo-clean:  ## forget the demo's answers, so that it calls the model again
	rm -rf $(DEMO)

test: $(STAMP)  ## the whole test suite
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup tests

lint: $(STAMP)  ## style, types and the import directions of the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)  ## put the style right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## overhead against raw aiohttp and the official client, as ratios
	$(BIN)/python benchmarks/overhead.py

notebook: $(STAMP)  ## execute the notebooks in place in a real kernel
	$(BIN)/python -m notebooks.execute

clean:  ## remove what the targets made, but for the virtual environment
	rm -rf $(DEMO) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
