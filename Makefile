# Every target creates its own environment in .venv on first use.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test test-slow test-gpu lint types format soak fuzz bench bench-codec clean

demo: $(STAMP)  ## train, evaluate and sample a small Fast-Slow LSTM; about four minutes on two cores
	$(BIN)/fastslow demo --out runs/demo

test: $(STAMP)  ## all fast tests
	$(BIN)/python -m pytest -n auto

test-slow: $(STAMP)  ## the tests that take minutes
	$(BIN)/python -m pytest -n auto -m slow

test-gpu: $(STAMP)  ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

soak: $(STAMP)  ## a run killed thirty times, on a full disk and read-only, against one undisturbed; ARGS="--help"
	$(BIN)/python -m tests.stress.soak $(ARGS)

fuzz: $(STAMP)  ## 10,000 mutations of a run's files, opened as the programs do; some minutes; ARGS="--help"
	$(BIN)/python -m tests.stress.fuzz $(ARGS)

bench: $(STAMP)  ## one table: engines against torch.nn.LSTM and the floors, on this machine
	$(BIN)/fastslow bench

bench-codec: $(STAMP)  ## archives beside other compressors; ARGS="--help" tells what it needs
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python benchmarks/codec.py $(ARGS)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache
