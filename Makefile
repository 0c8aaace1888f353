# Every target may be run again: what is done already is not done twice.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
UV_VERSION := 0.13.9

.DEFAULT_GOAL := help
.PHONY: help demo test lint docs up down status lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

demo: $(STAMP) ## a model's whole life on real flights: set up, train, release, roll back
	@$(VENV)/bin/taxiway demo $(ARGS)

up: $(STAMP) ## start the services and leave them running
	@$(VENV)/bin/taxiway up

down: ## stop the services, every process of them
	@if [ -x $(VENV)/bin/taxiway ]; then $(VENV)/bin/taxiway down; else echo "nothing is installed here, so nothing runs"; fi

status: $(STAMP) ## show the services, their addresses and how to log in
	@$(VENV)/bin/taxiway status

# The system tests wait for Airflow most of the time, so what needs no quiet machine runs beside them, on two workers,
# and behind them: each minute that a whole stack is up costs most of a core by itself.
PYTEST := $(VENV)/bin/python -m pytest
PATIENT := $(addprefix tests/integration/test_,$(addsuffix .py,by_hand console controller deployer drill_crashes explain_request \
	ledger reconcile_crashes registry_mlflow registry_serving storage train validation_equivalence validation_sources wheel))

test: lint ## lint, types, unit, integration and system tests; ARGS="tests/unit -k judge" runs these alone
	@if [ -n "$(ARGS)" ]; then exec $(PYTEST) $(ARGS); fi; \
	log=$$(mktemp); nice -n 15 $(PYTEST) -n 2 --dist loadfile tests/unit tests/dags tests/docs tests/contract $(PATIENT) >"$$log" 2>&1 & beside=$$!; \
	$(PYTEST) tests/system; system=$$?; wait $$beside; quick=$$?; cat "$$log"; rm -f "$$log"; \
	$(PYTEST) tests/integration $(PATIENT:%=--ignore=%); alone=$$?; \
	exit $$((system | quick | alone))

lint: $(STAMP) ## ruff, mypy, and the arrows between packages
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports --no-logo

docs: $(STAMP) ## build the documents into build/docs
	@$(VENV)/bin/python tools/spec_reference.py
	@$(VENV)/bin/python -m sphinx -q -W --keep-going docs build/docs
	@echo "build/docs/index.html"

lock: $(STAMP) ## resolve pyproject.toml again: writes requirements.lock and requirements.txt
	@$(VENV)/bin/python tools/lock.py

clean: down ## stop everything and delete what was installed and stored
	@rm -rf $(VENV) var .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info

# uv is the fastest installer that pip can bring: the complete lock of 240 packages in seconds where pip takes minutes.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) tools/check_machine.py
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m uv --version 2>/dev/null | grep -qF $(UV_VERSION) || $(VENV)/bin/python -m pip install -q --disable-pip-version-check uv==$(UV_VERSION)
	@echo "installing the locked packages into $(VENV) …"
	@$(VENV)/bin/python -m uv pip sync -q --python $(VENV)/bin/python --require-hashes requirements.lock
	@$(VENV)/bin/python -m uv pip install -q --python $(VENV)/bin/python --no-deps --no-build-isolation -e .
	@touch $@
