# The one entry point for people. `make` alone says what there is.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: help up test build bench lint clean requirements

# Tests start the command line hundreds of times: what is compiled once is not compiled each time.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
BIN := .venv/bin

help:
	@printf '%s\n' \
	  'make up      set up, then start a node for this machine alone, and say what to open' \
	  'make test    set up, then run everything that can be tested here' \
	  'make build   the set-up alone: .venv and the compiled core' \
	  'make bench   measure the node beside coturn, its ledger beside PostgreSQL, calls beside aiohttp' \
	  'make lint    ruff and mypy' \
	  'make clean   remove what the build and the tests made; .venv stays'

up: build
	@exec $(BIN)/montana up --dev

# One worker drives browsers, two do the rest, which waits a good deal: tests/conftest.py.
test: build
	@.ci/packages coturn chromium fonts-noto-color-emoji gammu gammu-smsd nginx || true
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

bench: build
	@.ci/packages coturn postgresql || true
	$(BIN)/python -m bench

lint: build
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	@rm -rf build dist montana.egg-info .build.lock .mypy_cache .ruff_cache \
	  .pytest_cache .hypothesis .benchmarks test-artifacts
	find core billing relay bridges bench tests -name '*.so' -delete
	find core billing relay bridges bench tests -name __pycache__ -type d -prune -exec rm -rf {} +

# setup.py builds again only what changed. The lock serves those who build the same checkout from
# two terminals.
build: .venv/.dependencies.stamp
	@flock .build.lock $(BIN)/python setup.py --quiet build_ext --inplace

# What no rule below can make; named all at once, with the line that installs it.
requirements:
	@missing=() packages=()
	if ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
	  missing+=('Python 3.11 or later as $(PYTHON)'); packages+=(python3 python3-venv python3-dev)
	else
	  $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	    || { missing+=("Python's venv module"); packages+=(python3-venv); }
	  test -f "$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" \
	    || { missing+=("Python's C headers"); packages+=(python3-dev); }
	fi
	command -v gcc >/dev/null || { missing+=('a C compiler'); packages+=(gcc libc6-dev); }
	if (($${#missing[@]})); then
	  printf 'Missing: %s\n' "$${missing[@]}" >&2
	  printf 'Install it with:\n    sudo apt install %s\n' "$${packages[*]}" >&2
	  exit 1
	fi

.venv/.dependencies.stamp: pyproject.toml | requirements
	@test -x $(BIN)/python || { echo 'Creating .venv'; $(PYTHON) -m venv .venv; }
	echo 'Installing what pyproject.toml names'
	mapfile -t builders < <($(BIN)/python -c \
	  'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")')
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check "$${builders[@]}"
	flock .build.lock $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check \
	  --no-build-isolation --editable '.[dev]'
	touch $@
