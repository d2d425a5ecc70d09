# Every target sets itself up: `make demo` in a fresh clone makes .venv, installs, and runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo test test-all test-gpu bench docs dist format lint clean
.DELETE_ON_ERROR:

install: $(VENV)/.installed

# One environment for everything, made once and again when the requirements change.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/python examples/ffhq_superres.py

# One thread a worker: two workers that each take both cores would wait for each other.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

test-all: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m 'slow or not slow'

# On a machine with an NVIDIA GPU; without one every test is skipped.
test-gpu: install
	$(BIN)/python -m pytest -m 'slow or not slow' tests/test_cuda.py

bench: install
	$(BIN)/pip install --quiet --editable '.[bench]'
	$(BIN)/python -m benchmarks.discretization
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.calls

docs: install
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

# What a release uploads, and a look at it: the wheel holds the library alone, and the models that come with it.
dist: install
	rm -rf build dist
	$(BIN)/pip install --quiet build twine
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	! unzip -Z1 dist/*.whl | grep -v -e '^fnodiff/' -e '^fnodiff-[^/]*.dist-info/'

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

clean:
	rm -rf docs/_build docs/gallery docs/mechanisms_gallery build dist .pytest_cache .ruff_cache
