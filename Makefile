# Two commands matter: `make demo` and `make test`. Both set up .venv first if it is missing or out of date.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.PHONY: demo test check format clean

demo: $(VENV)/.core  ## Generate a small world, fine-tune with MokA, print accuracy by question type
	$(BIN)/python scripts/demo.py

test: $(VENV)/.dev  ## Run the whole test suite
	$(BIN)/python -m pytest -n 2

check: $(VENV)/.dev  ## Lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove the environment and the demo's runs (not the cached world)
	rm -rf $(VENV) runs

$(VENV)/bin/python:
	@echo "Creating $(VENV) with $(PYTHON)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "moka needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# torch comes first and by its exact version, so that nothing after it pulls another build.
$(VENV)/.core: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing moka and what it needs (about a minute)"
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	@echo "Installing the development tools"
	$(PIP) -e ".[dev]"
	@touch $@
