# Each target does all of its own set-up: a fresh clone and a Python >= 3.11 are enough.
# The environment lives in .venv and is reused until pyproject.toml or constraints.txt changes.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV   := .venv
BIN    := $(VENV)/bin
KEY    := $(shell cat pyproject.toml constraints.txt | cksum | cut -d ' ' -f 1)
USER_STAMP := $(VENV)/.rewarden-$(KEY)
DEV_STAMP  := $(VENV)/.rewarden-dev-$(KEY)
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
WORKERS ?= 2
PYTEST_ARGS ?=

.PHONY: demo test lint unit peers bench wheel clean

demo: $(USER_STAMP)            ## score the bundled pairs with the bundled model and write demo-report/report.html
	$(BIN)/rewarden demo -o demo-report

test: lint unit                ## ruff, pyright, the test suite, doctests and the code blocks of the documentation

lint: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/pyright

# One thread per worker: two workers with two threads each are slower than two with one.
unit: $(DEV_STAMP)
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m "not peers" $(PYTEST_ARGS)

peers: $(DEV_STAMP)            ## our adapters with the real clients of OpenRLHF and verl, in environments of their own (4 GB, built once)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m peers tests

bench: $(DEV_STAMP)            ## side by side with peers; prints ratios
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

wheel: $(DEV_STAMP)            ## dist/rewarden-*.whl
	rm -rf dist
	$(BIN)/python -m build --no-isolation --wheel --outdir dist .

clean:                         ## everything make created, the environment included
	rm -rf $(VENV) dist build demo-report .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "rewarden needs Python >= 3.11; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(USER_STAMP): | $(BIN)/python
	@echo "installing into $(VENV): a minute or two"
	$(PIP) -e .
	@touch $@

$(DEV_STAMP): | $(BIN)/python
	@echo "installing into $(VENV): a minute or two"
	$(PIP) -e '.[dev]'
	@touch $(USER_STAMP) $@
