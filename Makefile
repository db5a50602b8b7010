# make demo   train an adder network beside its CNN twin on handwritten digits
# make test   run the tests
# make lint   formatting, style, types, direction of imports
#
# Everything is installed into $(VENV). An environment that exists is used as it is: its torch stays.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml CMakeLists.txt $(shell find native src -type f -not -path '*/__pycache__/*')

.PHONY: demo test lint format
.DELETE_ON_ERROR:

demo: $(VENV)/.core
	$(BIN)/adderkit train recipes/demo.yaml --out runs/demo --resume

test: $(VENV)/.test
	$(BIN)/python -m pytest

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	find native -name '*.cpp' -o -name '*.h' -o -name '*.hpp' | xargs $(BIN)/clang-format --dry-run --Werror
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: $(VENV)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find native -name '*.cpp' -o -name '*.h' -o -name '*.hpp' | xargs $(BIN)/clang-format -i

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: $(BIN)/python $(SOURCES)
	$(BIN)/pip install --quiet .
	touch $@

$(VENV)/.test: $(BIN)/python $(SOURCES)
	$(BIN)/pip install --quiet ".[vision,test]"
	touch $@

$(VENV)/.lint: $(BIN)/python $(SOURCES)
	$(BIN)/pip install --quiet ".[vision,lint]"
	touch $@
