# Two commands serve most needs: `make serve` and `make test`. Both install what they lack into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Byte code is made by one import, of what is used alone: the service takes 75 MB less that way.
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt

.PHONY: help serve test check format benchmark train-demo clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(VENV)/.service: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable .
	$(BIN)/python -c 'import service.app, service.cli'
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable '.[test]'
	@touch $@ $(VENV)/.service

serve: $(VENV)/.service  ## install the service and serve model_repo/ on 127.0.0.1:8000
	$(BIN)/percept serve

check: $(VENV)/.test  ## format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check  ## everything: the checks and the test suite
	$(BIN)/python -m pytest

format: $(VENV)/.test  ## put the code into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

benchmark: $(VENV)/.test  ## print the service's measured costs on this machine
	$(BIN)/python -m tests.benchmarks.service
	$(BIN)/python -m tests.benchmarks.promises

train-demo: $(VENV)/.test  ## train, measure and export the shipped model from nothing
	$(BIN)/python -m training.autoencoder --run small --out runs/autoencoder
	$(BIN)/python -m training.finetune --run shipped --vae runs/autoencoder --out runs/shipped
	$(BIN)/python -m training.evaluate runs/shipped --calibrate runs/shipped/calibration.json
	$(BIN)/python -m training.export runs/shipped --name percept --repository model_repo

clean:  ## forget the virtual environment and every cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info
