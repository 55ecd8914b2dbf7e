# Everything a person does with a clone. `make setup` downloads what all the others need; they run it first, and it
# does nothing when nothing changed. Only `make demo`, `make e2e` and `make test-image` bring more.

PYTHON ?= python3
# They wait more than they work.
TESTS_AT_ONCE ?= $(shell echo $$((2 * $$(nproc))))
VENV := .venv
PY := $(VENV)/bin/python
ARGS ?=

LOCK := requirements.lock
COMPILED := $(shell find sidecar telemetry -name '*.pyx' -o -name '*.pxd')
# Stamps: the locked packages are installed; the compiled modules are built from these sources.
INSTALLED := $(VENV)/.installed
BUILT := $(VENV)/.built

PIP := $(PY) -m pip --disable-pip-version-check
# The lock serves every supported Python: it is made with the oldest one, and its header names no machine.
PIP_COMPILE := CUSTOM_COMPILE_COMMAND='make lock' $(PY) -m piptools compile --quiet --strip-extras --allow-unsafe \
	--generate-hashes --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options \
	--all-extras --all-build-deps --output-file $(LOCK)

.PHONY: help setup run demo test e2e test-image audit campaign chaos soak bench gate instructions lint format lock clean
.DEFAULT_GOAL := help

help: ## what there is to make
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  make \1\t/' | expand -t 20

setup: $(BUILT) ## a virtual environment in .venv: locked packages, compiled modules

run: setup ## the server on port 6379, with ARGS="--port 7000 ..." as its arguments
	@exec $(PY) -m sidecar $(ARGS)

demo: setup ## a Valkey with some traffic, and the Aspire dashboard that shows it (brought by npm, once)
	@exec $(PY) -m samples.demo

test: setup ## unit and integration tests, with the engine that make setup brought
	$(PY) -m pytest -n $(TESTS_AT_ONCE) -m 'not e2e and not image' $(ARGS)

e2e: setup ## tests with other programs: redis-cli, replicas, Sentinel, clients' test suites, the Aspire dashboard, Prometheus
	$(PY) -m pytest -m e2e $(ARGS)

test-image: setup ## the container image, built and run (a Docker engine, or root and Debian's docker.io and debootstrap)
	$(PY) -m pytest -m image tests/image $(ARGS)

audit: setup ## whether a locked package has a known vulnerability (pip-audit; 3: nobody could be asked); ARGS="-s osv"
	$(PY) -m tests.audit $(ARGS)

campaign: setup ## everything that tries to break the server, at full length, and its closing table; ARGS="--page" records it
	$(PY) -m tests.campaign $(ARGS)

chaos: setup ## faults at random moments under a workload that knows its data: SEED=... repeats a run, ROUNDS=..., MINUTES=...
	$(PY) -m tests.campaign.chaos $(if $(SEED),--seed $(SEED)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(MINUTES),--minutes $(MINUTES)) $(ARGS)

soak: setup ## 200 clients with everything on for 20 minutes (ARGS="--minutes 5"): nothing may grow
	$(PY) -m tests.campaign.soak $(ARGS)

bench: setup ## this server against bare Valkey, HAProxy and nutcracker, and what telemetry costs (5 minutes)
	$(PY) -m bench $(ARGS)

gate: setup ## instructions per command, counted by valgrind, against those in bench/instructions.json
	$(PY) -m bench.instructions

instructions: setup ## the same, written into bench/instructions.json
	$(PY) -m bench.instructions --record

lint: setup ## style and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: setup ## what ruff can put right by itself
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

lock: setup ## exact versions and hashes of everything, anew, into requirements.lock
	@$(PY) -c 'import sys; sys.exit(0 if sys.version_info[:2] == (3, 11) else "make lock: the lock is made with Python 3.11, the oldest supported one; .venv has another (make clean, then make lock PYTHON=python3.11)")'
	$(PIP_COMPILE) --upgrade pyproject.toml

clean: ## removes .venv and every build product
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -path ./.git -prune -o -name __pycache__ -prune -exec rm -rf {} +
	find sidecar telemetry -name '*.so' -delete

$(INSTALLED): $(LOCK)
	@$(PYTHON) -c "$$CHECK_PYTHON"
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --no-deps --require-hashes -r $(LOCK)
	@touch $@

# The first build installs the package editable; after that only modules whose sources changed are compiled again.
# setuptools, Cython and all dependencies are in the lock: neither way downloads anything.
$(BUILT): $(INSTALLED) pyproject.toml setup.py $(COMPILED)
	$(if $(filter-out %.pyx %.pxd,$?),\
		$(PIP) install --quiet --no-index --no-deps --no-build-isolation --editable .,\
		$(PY) setup.py --quiet build_ext --inplace)
	@touch $@

define CHECK_PYTHON
import os, sys, sysconfig
if sys.version_info < (3, 11):
    sys.exit("make setup: Python 3.11 or later is needed, this is %s (choose one with PYTHON=python3.12)" % sys.version.split()[0])
try:
    import ensurepip
except ImportError:
    sys.exit("make setup: this Python cannot make virtual environments (Debian: apt-get install python3-venv)")
if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    sys.exit("make setup: this Python has no C headers (Debian: apt-get install python3-dev)")
endef
export CHECK_PYTHON
