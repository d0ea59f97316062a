# Every target creates its environment in .venv on first use: `demo` with the user's dependencies, the others with the developer's.
PYTHON ?= python3
BIN := .venv/bin
USER_STAMP := .venv/.installed-user
STAMP := .venv/.installed-dev
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable

.PHONY: demo test test-slow test-gpu lint types format docs pictures soak fuzz bench bench-codec clean

demo: $(USER_STAMP)  ## train, evaluate and sample a small Fast-Slow LSTM; about four minutes on two cores
	$(BIN)/fastslow demo --out runs/demo

test: $(STAMP)  ## all fast tests
	$(BIN)/python -m pytest -n auto --dist worksteal

test-slow: $(STAMP)  ## slow tests (minutes)
	$(BIN)/python -m pytest -n auto --dist worksteal -m slow

test-gpu: $(STAMP)  ## tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)  ## the documentation site, in docs/_build/html; warnings are errors
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -b html docs docs/_build/html

pictures: $(STAMP)  ## redraw the pictures in the README and the documentation
	$(BIN)/python docs/pictures.py

soak: $(STAMP)  ## kill and resume training runs, also on a full and a read-only disk, and compare with an uninterrupted run; ARGS="--help"
	$(BIN)/python -m tests.stress.soak $(ARGS)

fuzz: $(STAMP)  ## open 10,000 damaged copies of a run's files as the commands do; takes a few minutes; ARGS="--help"
	$(BIN)/python -m tests.stress.fuzz $(ARGS)

bench: $(STAMP)  ## time the engines, torch.nn.LSTM and the matrix products alone on this machine
	$(BIN)/fastslow bench

bench-codec: $(STAMP)  ## compare archive sizes with other compressors; requirements: ARGS="--help"
	$(PIP) '.[bench]'
	$(BIN)/python benchmarks/codec.py $(ARGS)

$(USER_STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) .
	touch $@

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) '.[dev]'
	touch $@ $(USER_STAMP)

clean:
	rm -rf .venv build dist docs/_build .pytest_cache .mypy_cache .ruff_cache
