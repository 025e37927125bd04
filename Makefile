# Two commands serve most needs: `make serve` and `make test`. Both install what they lack into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TRITON := .venv-triton
# Byte code is made by one import, of what is used alone: the service takes 75 MB less that way.
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt
# What the settings ask for beyond the embedded default.
COMMA := ,
EXTRAS := $(strip $(if $(filter triton,$(PERCEPT_BACKEND)),triton) $(if $(PERCEPT_REDIS_URL),redis))
EXTRAS := $(subst $(subst ,, ),$(COMMA),$(EXTRAS))
SERVICE := $(VENV)/.service$(addprefix -,$(EXTRAS))

.PHONY: help serve triton triton-for-tests test check format benchmark train-demo clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(SERVICE): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable '.$(addsuffix ],$(addprefix [,$(EXTRAS)))'
	$(BIN)/python -c 'import service.app, service.cli'
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable '.[test]'
	@touch $@ $(SERVICE)

serve: $(SERVICE)  ## install the service and serve model_repo/ on 127.0.0.1:8000
	$(BIN)/percept serve

# numpy of another major version, so in an environment of its own.
$(TRITON)/.ready: docker/triton/requirements.txt
	$(PYTHON) -m venv $(TRITON)
	$(TRITON)/bin/python -m pip install --quiet --no-compile --requirement $<
	@touch $@

triton: $(TRITON)/.ready  ## install a Triton server and serve model_repo/ with it on 127.0.0.1:8001
	$(TRITON)/bin/python docker/triton/serve.py

# Linux alone has wheels of Triton; where CI=true their lack is an error.
triton-for-tests:
	@$(MAKE) --no-print-directory $(TRITON)/.ready || \
		{ echo "no Triton server for this machine: its tests are skipped"; test "$$CI" != true; }

check: $(VENV)/.test  ## format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check triton-for-tests  ## everything: the checks and the test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

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
	rm -rf $(VENV) $(TRITON) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info
