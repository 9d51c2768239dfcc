# A fresh machine needs two commands: `make demo` and `make test`. `make help` tells the rest.

SHELL := /bin/sh
.DEFAULT_GOAL := help

# The first interpreter found that is new enough; PYTHON=... chooses another.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3.14 python3 python; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& echo $$p && break; done)
VENV ?= .venv
# Tests wait more than they compute: somewhat more workers than a small machine has processors.
WORKERS ?= 3
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# Tests start some hundred Python processes. Where the environment forbids Python to keep what it
# compiled, each of them would compile aiorpc anew, and pytest all tests.
export PYTHONDONTWRITEBYTECODE :=

# $(call run-tests,VENV,PATHS): most tests beside others, by file, then those that have to be alone.
# The second part runs whatever became of the first, and either one's failure is that of both.
define run-tests
echo "== $(WORKERS) at a time"; \
$(1)/bin/python -m pytest -q -m "not alone" -n $(WORKERS) --dist loadfile $(2); beside=$$?; \
echo "== alone"; \
$(1)/bin/python -m pytest -q -m alone $(2); alone=$$?; \
test $$beside = 0 || echo "there are failures in the first part, see above"; \
test $$beside$$alone = 00
endef

.PHONY: wheel-test help demo check check-style check-pyright check-tests test test-all servers servers-stop format chaos docs clean

help: ## what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## run the example services and a client, without any server
	@$(BIN)/python -m services.demo
	@$(BIN)/python -m services.library.demo

check: $(VENV)/.dev ## format, lint, types, and the quick tests that need no server
	@$(MAKE) --no-print-directory -j2 --output-sync=target check-tests check-pyright check-style

check-style: $(VENV)/.dev
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary

check-pyright: $(VENV)/.dev
	@$(BIN)/pyright --warnings > $(VENV)/pyright.log || { cat $(VENV)/pyright.log; exit 1; }

check-tests: $(VENV)/.dev
	@$(BIN)/python -m pytest -q -n 2 --hypothesis-profile=quick \
		-m "not slow and not rabbitmq and not postgresql and not mysql and not nameko"

test: $(VENV)/.dev servers ## everything, on RabbitMQ, PostgreSQL and MariaDB
	@$(call run-tests,$(VENV))

test-all: $(VENV)/.dev servers ## the whole suite on each interpreter
	@for p in python3.11 python3.12 python3.13 python3.14; do \
		if $$p -c 'import ensurepip' >/dev/null 2>&1; then \
			echo "== $$($$p --version)"; \
			$(MAKE) --no-print-directory VENV=.venv-$$p PYTHON=$$p .venv-$$p/.dev \
			|| exit 1; \
			$(call run-tests,.venv-$$p) || exit 1; \
		fi; done

servers: $(VENV)/.base ## bring up RabbitMQ, PostgreSQL and MariaDB, or use those there are
	@$(BIN)/python -m tests.servers up

servers-stop: $(VENV)/.base ## stop what `make servers` started, and nothing else
	@$(BIN)/python -m tests.servers down

wheel-test: $(VENV)/.base ## build the wheel and try it in empty environments, on each interpreter
	@$(BIN)/python -m tests.support.wheel

chaos: $(VENV)/.dev servers ## the chaos suite at length, some minutes; prints a table
	@$(BIN)/python -m tests.chaos

docs: $(VENV)/.docs ## the documentation as HTML in docs/_build; a warning is an error
	@$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --nitpicky docs docs/_build
	@echo "open docs/_build/index.html"

format: $(VENV)/.dev ## format, and mend what the linter can
	@$(BIN)/ruff format --quiet . && $(BIN)/ruff check --fix .

clean: servers-stop ## remove what the other targets made
	rm -rf .venv .venv-* .servers dist docs/_build .mypy_cache .pytest_cache .ruff_cache
	find aiorpc docs services tests -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.base:
	@test -n "$(PYTHON)" || { echo "aiorpc needs Python 3.11 or newer, with venv (on Debian and" \
		"Ubuntu: apt-get install python3-venv). Or name one: make PYTHON=/path/to/python"; exit 1; }
	@echo "setting up $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.demo: pyproject.toml | $(VENV)/.base
	@$(PIP) install -e '.[sqlite,uvloop]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.base
	@$(PIP) install -e '.[all]' --group dev
	@touch $@ $(VENV)/.demo

$(VENV)/.docs: pyproject.toml | $(VENV)/.base
	@$(PIP) install -e '.[all]' --group docs
	@touch $@
