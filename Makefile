# Everything runs in .venv, made on first use. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
# Waiting threads sleep: beside any other work, spinning ones stall each other.
export OMP_WAIT_POLICY ?= PASSIVE
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test fuzz setup bench docs lint clean

demo: $(VENV)/.runtime  ## the main job on the embedded model, on two example pictures
	@$(BIN)/calotype demo --out runs/demo-$$(date +%Y%m%d-%H%M%S)

# Small networks gain nothing from a second thread: two workers of one thread each do twice as much.
test: export OMP_NUM_THREADS ?= 1
test: $(VENV)/.development  ## everything that is tested; with WORKERS=0 in one process, with TESTS="-m unit" a part of it
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(TESTS)

fuzz: $(VENV)/.development  ## 10,000 damaged files of every format; hours
	CALOTYPE_FUZZ_EXAMPLES=10000 $(BIN)/python -m pytest tests/fuzz --timeout=36000

setup: $(VENV)/.development  ## .venv with everything that tests, evaluations and the docs need

bench: $(VENV)/.development  ## wall time against bare model calls; writes results/bench.csv
	$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-disable-gc -q

docs: $(VENV)/.development  ## the site, built strictly, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: $(VENV)/.development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy scripts
	$(BIN)/lint-imports

$(VENV)/.runtime: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -c constraints.txt torch
	$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.development: $(VENV)/.runtime
	$(PIP) install --quiet -c constraints.txt -e ".[test,docs,plot,medical,sim]"
	@touch $@

clean:
	rm -rf $(VENV) site .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis .benchmarks
