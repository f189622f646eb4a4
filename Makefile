PYTHON ?= python3
BIN := .venv/bin
# Tests wait for real servers more than they work: files side by side, each whole.
SPREAD := --numprocesses 3 --dist loadfile
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help install services test cover test-long chaos check lint types layers demo bench recovery compat clean

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Make .venv with everything that tests, checks and demo need

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	@touch $@

services: ## Install RabbitMQ from Debian when it is missing (as root)
	@.ci/services

test: install services ## Run the tests; ARGS="-k lease" runs a part of them
	$(BIN)/python -m pytest -m "not long" $(SPREAD) $(ARGS)

cover: install services ## Run the tests, and show which lines they did not reach
	$(BIN)/python -m pytest -m "not long" $(SPREAD) --cov=jobkit $(ARGS)

test-long: install ## Run the long forms of the tests, also those in a browser
	@.ci/services browser
	$(BIN)/python -m pytest -m long --timeout 1800 $(ARGS)

chaos: install services ## Random faults on a cluster; ARGS="--seconds 600 --broker rabbitmq"
	$(BIN)/python -m tests.chaos.driver $(ARGS)

check: lint types layers ## Run every check but the tests

lint: install ## Check style, format and spelling
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell

types: install ## Check the types
	$(BIN)/mypy

layers: install ## Check who imports whom
	$(BIN)/lint-imports --no-logo

demo: install ## Sync 50,000 orders and kill workers meanwhile; ARGS="--no-kill" does not
	$(BIN)/python -m examples.order_sync.demo $(ARGS)

bench: install ## Measure against tqdm and plain Celery
	$(BIN)/python -m benchmarks.run $(ARGS)

recovery: install services ## Measure how long jobs stand still after a kill or a shutdown; ARGS="--runs 20"
	$(BIN)/python -m benchmarks.recovery $(ARGS)

compat: install services ## Run Celery's own integration tests with our task class
	$(BIN)/python tests/compat/run.py $(ARGS)

clean: ## Remove what tests, checks and builds have left behind
	rm -rf .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	rm -rf build dist htmlcov
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
