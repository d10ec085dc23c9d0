# Every target makes its own environment when it is missing, and reuses it when it is there.
# A fresh machine needs Python 3.11 or newer, and nothing else.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RUNS ?= runs
PACKAGES ?= packages

.PHONY: demo test check kernels bench test-gpu test-cluster test-parallel packages format clean help

help:
	@echo "make demo      the whole life of a small model, on this machine's own Python sources"
	@echo "make test      all tests"
	@echo "make check     format, lint, types, floors"
	@echo "make kernels   operations against their definitions"
	@echo "make bench     measurements, one JSON line each"
	@echo "make packages  2 GB of real source packages, to measure curation on"
	@echo "make test-cluster  the cluster driver on a local Ray cluster"
	@echo "make test-parallel  training on several processes: equal, resumed on others, killed"
	@echo "make test-gpu  the tests that need an NVIDIA GPU"

# C sources count: a library that other sources were compiled to is not used.
$(READY): pyproject.toml constraints.txt hatch_build.py \
  $(wildcard src/cairn/ops/native/*.[ch]) src/cairn/curate/near/minhash.c
	@test -n "$(PYTHON)" || { echo "cairn needs Python 3.11 or newer: put one on the PATH or set PYTHON=" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[serve,eval,fast,docs,grammar,tensorboard,dev]'
	touch $(READY)

demo: $(READY)
	$(BIN)/cairn make plans/pico.py --runs $(RUNS)
	@echo
	@echo "\$$ cairn generate $(RUNS)/pico/release --prompt '// Licensed to the' --max-tokens 48 --trace"
	@$(BIN)/cairn generate $(RUNS)/pico/release --prompt '// Licensed to the' --max-tokens 48 --trace

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup -m "not gpu and not parallel"

check: $(READY)
	$(BIN)/ruff format --check src tests bench plans
	$(BIN)/ruff check src tests bench plans
	$(BIN)/pyright
	$(BIN)/lint-imports

kernels: $(READY)
	$(BIN)/python -m pytest -m kernels

bench: $(READY)
	for name in model serving kernels; do $(BIN)/cairn bench $$name || exit 1; done

packages:
	$(PYTHON) bench/packages.py $(PACKAGES) --bytes 2GB

# Daft and Ray are heavy and want their own pyarrow: an environment of their own.
test-cluster:
	test -x .venv-cluster/bin/python || $(PYTHON) -m venv .venv-cluster
	.venv-cluster/bin/python -m pip install --quiet --disable-pip-version-check \
	  duckdb==2.0.0 dulwich==1.2.21 rich numpy==2.4.6 "daft[ray]>=0.7.26,<0.8" pytest
	PYTHONPATH=src .venv-cluster/bin/python -m pytest --confcutdir=tests/curate tests/curate/test_cluster.py

test-parallel: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m parallel

test-gpu: $(READY)
	$(BIN)/python -m pytest -m gpu

format: $(READY)
	$(BIN)/ruff format src tests bench plans
	$(BIN)/ruff check --fix src tests bench plans

clean:
	rm -rf $(VENV) .venv-cluster .pytest_cache .ruff_cache .hypothesis build dist
