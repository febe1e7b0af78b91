# From a fresh clone to a leaderboard (`make bench`), to passing tests (`make test`), to a checked change (`make check`).
# Every target sets up what it needs in .venv, once. The plain commands behind them stand in README.md.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -q
# Tests go this many at once, each file on one worker (they share what is costly), each worker on one thread; the files that
# take minutes go first (tests/conftest.py), or one worker would be busy with them alone at the end. perf: one more than two
# cores, since tests of killed and hanging processes mostly wait.
WORKERS ?= 3
# Unit tests do not wait, so each core gets one worker. perf: a third one on two cores costs 20 CPU seconds more.
UNIT_WORKERS ?= 2

# perf: pip compiles nothing here, so the first import must keep what it compiles: timm takes 4 s from then on, 11 s else.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup setup-dev bench dist test-unit test golden test-slow speed speed-gpu leaderboard leaderboard-check check format \
  notebook changelog clean

help:  ## List the targets.
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /\1  /' | awk '{ n = $$1; $$1 = ""; printf "make %-10s%s\n", n, $$0 }'

setup: $(VENV)/.installed  ## Make .venv with zoo and its plugins.
setup-dev: $(VENV)/.installed-dev  ## The same, and what tests and checks need.

$(VENV)/.installed: requirements.txt constraints.txt pyproject.toml $(wildcard plugins/*/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "zoo needs Python 3.11 or newer; give one by make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@# perf: --no-compile halves pip's work (45 s of CPU against 100 s); Python compiles what is imported when it is
	$(PIP) install --no-compile -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(PIP) install -q --no-compile -r requirements-dev.txt
	@touch $@

bench: setup  ## The main job: the quickstart, ending with a leaderboard.
	$(BIN)/zoo bench --models resnet18,efficientnet_b0

test-unit: setup-dev  ## The tests that start no process and take under half a second each: about a minute on 2 cores.
	$(PYTEST) -m "not integration and not slow" -n $(UNIT_WORKERS) --dist loadfile --no-loadscope-reorder

test: setup-dev  ## All tests but the slow ones.
	$(PYTEST) -m "not slow" -n $(WORKERS) --dist loadfile --no-loadscope-reorder

golden: setup-dev  ## Write the sentences that tests expect (tests/golden.json) from what is said now.
	$(PYTEST) -n $(WORKERS) --update-golden -m "not slow" $$(grep -l 'golden' tests/test_*.py)

test-slow: setup-dev  ## The costly tests, and further cases of the others; a workflow runs them each night.
	$(PYTEST) -m slow

speed: setup-dev  ## Measure zoo against hand-written scripts, side by side on this machine, into benchmarks/speed/README.md: over an hour, nothing else running.
	$(BIN)/python benchmarks/speed/speed.py --note

speed-gpu: setup-dev  ## The same on a GPU, the most telling lines first: about 20 minutes.
	$(BIN)/python benchmarks/speed/speed.py --note G1 G5 G7 G4 G3 G2 G6

# The bundles are verified before they are shown, so a stale page and a bundle that does not verify both fail the check.
BUNDLES := $(addprefix --results ,$(sort $(wildcard leaderboard/results/*.zip leaderboard/results/*.tar.xz)))

leaderboard: setup  ## Verify the bundles in leaderboard/results and build leaderboard/README.md and index.html from them.
	$(BIN)/zoo report --recipes --no-images $(BUNDLES) --output leaderboard/README.md --output leaderboard/index.html $(CHECK)

leaderboard-check:  ## Fail if a bundle does not verify or the two pages are stale.
	@$(MAKE) --no-print-directory leaderboard CHECK=--check

check: setup-dev  ## Format, lint, types, floors.
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(PYTEST) tests/test_layers.py

format: setup-dev  ## Put the code into the one format, and mend what the linter can.
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

dist: setup-dev  ## Build the wheels and sdists of zoo and its plugins into dist/, check them, and try them out in a new environment.
	$(BIN)/python releasing/make_dist.py $(if $(REPOSITORY),--repository $(REPOSITORY))

notebook: setup  ## Execute docs/python.ipynb anew and store its outputs.
	$(PIP) install -q nbclient ipykernel
	$(BIN)/python docs/make_notebook.py

changelog: setup  ## Write the section "Unreleased" of CHANGELOG.md from changes/.
	$(BIN)/python docs/make_changelog.py

clean:  ## Remove .venv and what tools cached; results stay.
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
