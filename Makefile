# `make demo` and `make test` are all a fresh clone needs; both first install into .venv what is in constraints.txt.

PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo

.PHONY: help install demo test test-slow lint format benchmark clean

help:
	@echo "make demo       train a small STCN on synthetic speech; everything it finds goes to $(DEMO)"
	@echo "make test       the tests (a few minutes on 2 cores)"
	@echo "make test-slow  the long tests too"
	@echo "make lint       ruff and mypy"
	@echo "make format     ruff format"
	@echo "make benchmark  cost of a training step, as ratios"

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: install
	@echo "an earlier $(DEMO) is replaced"
	rm -rf $(DEMO)
	$(BIN)/python examples/timit_svi.py --output $(DEMO)

test: install
	$(BIN)/python -m pytest -m "not slow" -n 2

test-slow: install
	$(BIN)/python -m pytest -n 2

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy pyro_stcn

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

benchmark: install
	$(BIN)/python tests/benchmarks/svi_step.py
	@echo; echo 'tests/benchmarks/systems.py times all systems, on the corpora in PYRO_STCN_DATA'

clean:
	rm -rf $(VENV) runs build dist *.egg-info
