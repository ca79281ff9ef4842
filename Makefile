# The commands of a checkout. Everything they make lies in .venv, var and the caches that .gitignore names.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
INSTALLED := .venv/installed
STUBS := snapd/v1/volume_service_pb2.py
export PATH := $(PATH):/usr/sbin:/sbin

.PHONY: help setup demo test torture soak fuzz check format run bench docs protos clean

help: ## say what there is
	@echo "make …"
	@sed -nE 's/^([a-z]+):.*## (.*)/  \1\t\2/p' Makefile | expand -t 12

setup: $(INSTALLED) $(STUBS) ## make .venv with the daemon, snapvol and the tools

$(INSTALLED): pyproject.toml .ci/setup
	@.ci/setup
	@touch $@

$(STUBS): hatch_build.py $(wildcard protos/snapd/v1/*.proto) | $(INSTALLED)
	@$(BIN)/python hatch_build.py

demo: setup ## run the whole main job against a real daemon; IMAGE=disk.qcow2 takes your own disk
	@$(BIN)/python -m tests.demo $(if $(IMAGE),--image '$(IMAGE)')

test: setup ## run the tests
	@$(BIN)/pytest --numprocesses=auto --maxprocesses=4 -m 'not torture'

torture: setup ## run the tests that take long: kills at every point, thousands of random changes; ONLY=tests/crash RECORD=file.json
	@$(BIN)/pytest --numprocesses=auto --maxprocesses=4 -m torture $(if $(RECORD),--record '$(RECORD)') $(ONLY)

soak: setup ## torment a daemon for an hour, and check all that it promised; MINUTES=10 SEED=1 RECORD=file.json
	@$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),60) $(if $(SEED),--seed $(SEED)) $(if $(RECORD),--record $(RECORD))

fuzz: setup ## throw damaged images at the qcow2 engine for five minutes; SECONDS=3600 for an hour
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --quiet --group fuzz
	@$(BIN)/python -m tests.fuzz.run --seconds $(or $(SECONDS),300)

check: setup ## look at style, types, layers, protos and generated documents
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code --path protos/snapd
	$(BIN)/buf build -o - | $(BIN)/buf breaking - --against protos/baseline.binpb
	$(BIN)/python -m docs.generate --check

format: setup ## bring sources and protos into shape
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format --quiet .
	$(BIN)/buf format --write --path protos/snapd

run: setup ## run a daemon in the foreground that keeps everything in ./var/state
	@echo "export SNAPVOL_ADDRESS=$(CURDIR)/var/state/run/snapd-storage.sock   # for snapvol in another terminal"
	@exec $(BIN)/snapd-storage serve --state-dir var/state --log-format console

bench: setup $(INSTALLED)-bench ## measure; ONLY=engine.map one benchmark, ONLY=archive a group, QUICK=1 small sizes
	@$(BIN)/python -m tests.bench.run $(addprefix --only ,$(ONLY)) $(if $(QUICK),--quick)

$(INSTALLED)-bench: pyproject.toml .ci/setup
	@.ci/setup bench
	@touch $@

docs: setup ## write generated documents anew
	@$(BIN)/python -m docs.generate

protos: setup ## generate snapd/v1 anew
	@$(BIN)/python hatch_build.py

clean: ## remove all that was made, ./var included
	rm -rf .venv var build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -f snapd/v1/*_pb2*
	find snapd tests -name __pycache__ -prune -exec rm -rf {} +
