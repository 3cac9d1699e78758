# make demo: see a model improve itself.   make test: everything that has to hold.
# All targets work in .venv, which is made once and made again when what it depends on changes.
SHELL := /bin/bash
PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin

export PATH := $(BIN):$(PATH)
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false
# what Python compiled is kept: without it each of the tests' processes compiles torch and transformers anew
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test docs preview readme torture clean venv

venv: .venv/.made

# --no-compile: Python compiles what is imported; all that comes with the packages would take a minute
.venv/.made: settings.ini setup.py constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile -U pip  # what comes with Python 3.11 takes a minute longer
	$(BIN)/python -m pip install --no-compile -c constraints.txt -e ".[dev]"
	touch $@

demo: export OMP_NUM_THREADS := $(shell nproc)
demo: venv
	$(BIN)/vlmsi demo

test: venv
	$(BIN)/nbdev_test --n_workers 2 --timing
	$(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder tests

torture: venv  # hours of kills, damaged folders and hostile files, for each method
	$(BIN)/python tests/torture.py

readme: venv
	$(BIN)/python tests/readme.py

docs: venv
	$(BIN)/python tests/docs.py

preview: venv
	$(BIN)/python tests/preview.py

clean:
	rm -rf _docs _proc _preview build dist *.egg-info .pytest_cache
	find . -path ./.venv -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -exec rm -rf {} +
