# Two commands on a fresh machine: `make demo` shows the idea, `make test` checks the code.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Tests run in as many processes, of one thread each.
WORKERS ?= 2

# OpenMP threads that wait by spinning can end up on one core of a small shared machine, ten times
# slower; sleeping ones do not. Benchmarks run as users do, without it: it slows small solves.
demo test test-%: export OMP_WAIT_POLICY ?= passive

.PHONY: demo test test-database test-slow test-gpu test-adversary adversary-table test-lowest lint types docs wheel dist bench-tables study-report clean

demo: $(VENV)/.installed-demo
	$(BIN)/alphareq demo

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not gpu" --numprocesses $(WORKERS) --dist worksteal

# Four workers on a real PostgreSQL server, which comes as a Python package.
test-database: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow tests/sweep

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow

# What only a CUDA GPU can show: float16 autocast, NCCL, FSDP2, an update that waits for nothing.
test-gpu: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m gpu

# What an adversary would try: workers that start together and are killed, full disks, hostile files.
# Minutes; it prints what was tried and what held. The second writes that for docs/held.md.
test-adversary: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m adversary tests/adversary

adversary-table: export ADVERSARY_JSON := $(CURDIR)/benchmarks/results/adversary.json
adversary-table: test-adversary
	$(BIN)/python -m benchmarks.tables

# The core on the lowest supported versions, in an environment of its own.
test-lowest:
	test -x $(VENV)-lowest/bin/python || $(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet --constraint tests/lowest.txt \
		--editable '.[demo]' pytest pytest-timeout hypothesis reptrix
	$(VENV)-lowest/bin/python -m pytest -m "not slow" tests/metrics tests/functional \
		tests/callbacks tests/measure tests/records --ignore tests/callbacks/test_foreign_modules.py \
		--ignore tests/callbacks/test_several_networks.py \
		tests/selection tests/distributed tests/commands/test_cli.py

# One benchmark: peers, limit, overhead, memory, topk, tried, growth, readouts or gpu. Then the tables of docs/.
bench-%: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.$*

bench-tables: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.plots
	$(BIN)/python -m benchmarks.scale
	$(BIN)/python -m benchmarks.tables

# Tables and figures of docs/long_study.md, and study/results/table.csv, from the stored trainings.
study-report: $(VENV)/.installed-dev
	$(BIN)/python -m study.report

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

# The site, in docs/_build/html. Warnings are errors; it needs no network.
docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going docs docs/_build/html

# Wheel and sdist as they would be published, and the wheel's files, names and extras looked at from
# outside the checkout, with the packages of this environment.
wheel: $(VENV)/.installed-dev
	rm -rf dist build/wheel
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python -m pip install --quiet --no-deps --target build/wheel dist/*.whl
	$(BIN)/python -I tests/wheel.py build/wheel

# The same wheel in an empty environment, alone and then with what `demo` and `sweep` bring.
dist: wheel
	rm -rf build/empty
	$(PYTHON) -m venv build/empty
	build/empty/bin/python -m pip install --quiet dist/*.whl
	build/empty/bin/alphareq --version
	cd build && empty/bin/python -c "from alphareq_lightning import *"
	build/empty/bin/python -m pip install --quiet "$$(ls $(CURDIR)/dist/*.whl)[sweep,timm]"
	build/empty/bin/python -I tests/wheel.py

# An extra is installed again when pyproject.toml changes.
$(VENV)/.installed-%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) runs build dist docs/_build .pytest_cache .mypy_cache .ruff_cache
