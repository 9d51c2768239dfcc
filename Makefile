# A fresh machine needs two commands: `make demo` and `make test`. `make help` lists the others.

SHELL := /bin/sh
.DEFAULT_GOAL := help

# The first Python found that is 3.11 or newer; PYTHON=... chooses another.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3.14 python3 python; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& echo $$p && break; done)
VENV ?= .venv
# Test processes at a time. Tests mostly wait, so there are more than a small machine has processors.
WORKERS ?= 4
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# Tests start about a hundred Python processes. If Python could not keep compiled files, each process
# would compile aiorpc again, and pytest all tests.
export PYTHONDONTWRITEBYTECODE :=

# The files with tests that run alone: to collect all files takes longer than many of these tests.
ALONE = $$(grep -rl 'mark\.alone' tests --include='test_*.py')

# $(call run-tests,VENV): runs most tests in parallel, by file, and then the tests marked `alone`. The
# second part always runs. The target fails if either part fails.
define run-tests
echo "== in parallel, $(WORKERS) at a time"; \
$(1)/bin/python -m pytest -q -m "not alone and not long" -n $(WORKERS) --dist loadfile --no-loadscope-reorder; parallel=$$?; \
echo "== alone"; \
$(1)/bin/python -m pytest -q -m "alone and not long" $(ALONE); alone=$$?; \
test $$parallel = 0 || echo "there are failures in the first part, see above"; \
test $$parallel$$alone = 00
endef

.PHONY: wheel-test release help demo check check-style check-pyright check-tests test test-long test-all test-marshmallow3 servers servers-stop format chaos kills simulate docs links clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## run the example services and a client, without any server
	@$(BIN)/python -m services.demo
	@$(BIN)/python -m services.library.demo

check: $(VENV)/.dev ## check format, lint and types, and run the quick tests, which need no server
	@$(MAKE) --no-print-directory -j2 --output-sync=target check-tests check-pyright check-style

check-style: $(VENV)/.dev
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary

check-pyright: $(VENV)/.pyright

# pyright keeps no results, unlike mypy. So it runs only if a file or folder that it reads has changed.
$(VENV)/.pyright: $(VENV)/.dev pyproject.toml $(shell find aiorpc tests/typing -name __pycache__ -prune -o -print)
	@$(BIN)/pyright --warnings > $(VENV)/pyright.log || { cat $(VENV)/pyright.log; exit 1; }
	@touch $@

check-tests: $(VENV)/.dev
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --hypothesis-profile=quick \
		-m "not slow and not long and not alone and not rabbitmq and not postgresql and not mysql and not nameko"

test: $(VENV)/.dev servers ## run all tests but the long ones, on RabbitMQ, PostgreSQL and MariaDB
	@$(call run-tests,$(VENV))

test-long: $(VENV)/.dev servers ## run the long tests, which `make test` leaves out: clusters, processes under load, more versions
	@$(BIN)/python -m pytest -q -m "long and not alone" -n $(WORKERS) --dist loadfile --no-loadscope-reorder
	@$(BIN)/python -m pytest -q -m "long and alone" $(ALONE)

test-all: $(VENV)/.dev servers test-long ## run all tests: the long ones, the others with each Python from 3.11 to 3.14, databases with marshmallow 3
	@for p in python3.11 python3.12 python3.13 python3.14; do \
		if $$p -c 'import ensurepip' >/dev/null 2>&1; then \
			echo "== $$($$p --version)"; \
			$(MAKE) --no-print-directory VENV=.venv-$$p PYTHON=$$p .venv-$$p/.dev \
			|| exit 1; \
			$(call run-tests,.venv-$$p) || exit 1; \
		fi; done
	@$(MAKE) --no-print-directory test-marshmallow3

test-marshmallow3: servers ## test databases with the oldest and the newest marshmallow 3
	@$(MAKE) --no-print-directory VENV=.venv-marshmallow3 .venv-marshmallow3/.dev
	@for version in 3.18.0 '3.*'; do \
		echo "== marshmallow $$version"; \
		.venv-marshmallow3/bin/python -m pip --disable-pip-version-check --quiet install \
			"marshmallow==$$version" 'marshmallow-sqlalchemy<1.5' \
		&& .venv-marshmallow3/bin/python -m pytest -q tests/sqlalchemy tests/testing/test_databases.py \
		|| exit 1; done

servers: $(VENV)/.base ## start RabbitMQ, PostgreSQL and MariaDB, or find running ones
	@$(BIN)/python -m tests.servers up

servers-stop: $(VENV)/.base ## stop what `make servers` started, and nothing else
	@$(BIN)/python -m tests.servers down

wheel-test: $(VENV)/.base ## test the wheel in empty environments, with each Python
	@$(BIN)/python -m tests.support.wheel

release: $(VENV)/.docs $(VENV)/.release ## build and check all files of a release in dist/VERSION; upload nothing
	@$(BIN)/python -m tests.support.release

chaos: $(VENV)/.dev servers ## run the long chaos suite (some minutes) and print its table
	@$(BIN)/python -m tests.chaos

kills: $(VENV)/.dev servers ## kill a process at each await, statement and write of a call and its event (minutes)
	@$(BIN)/python -m tests.once
	@$(BIN)/python -m tests.once --beside

simulate: $(VENV)/.dev ## play new seeds in the simulator (SEEDS=1000), or one again (SEED=42)
	@$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),1000))

docs: $(VENV)/.docs ## build the documentation in docs/_build; a warning is an error
	@$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --nitpicky docs docs/_build
	@echo "open docs/_build/index.html"

links: $(VENV)/.docs ## check the links of the documentation to other sites; needs the network, so CI does not run it
	@$(BIN)/sphinx-build --quiet -b linkcheck -d docs/_build/.doctrees docs docs/_build/links

format: $(VENV)/.dev ## format, and fix what the linter can fix
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
	@$(PIP) install -e '.[sqlite,uvloop,http,cron]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.base
	@$(PIP) install -e '.[all]' --group dev
	@touch $@ $(VENV)/.demo

$(VENV)/.release: pyproject.toml | $(VENV)/.base
	@$(PIP) install --group release
	@touch $@

$(VENV)/.docs: pyproject.toml | $(VENV)/.base
	@$(PIP) install -e '.[all]' --group docs
	@touch $@
