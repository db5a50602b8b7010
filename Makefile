# make demo   train a CNN on handwritten digits, and the adder network that it leads
# make test   run the tests
# make lint   formatting, style, types, direction of imports
# make test-native    test the kernels without Python, also under the address and undefined-behaviour sanitizers
# make test-aarch64   the same for 64-bit Arm, with a cross compiler and an emulator
#
# Everything is installed into $(VENV). An environment that exists is used as it is: its torch stays.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml CMakeLists.txt $(shell find native src -type f -not -path '*/__pycache__/*')

.PHONY: demo test test-native test-aarch64 lint format
.DELETE_ON_ERROR:

demo: $(VENV)/.core
	$(BIN)/adderkit train recipes/demo.yaml --out runs/demo --resume

# Two at a time, a file to each. Threads that wait sleep: those of two processes would take the cores from each other.
test: $(VENV)/.test
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2 --dist loadfile

# $(1): build folder, $(2): further options of CMake
define native_tests
$(BIN)/cmake -S . -B $(1) -G Ninja -D CMAKE_MAKE_PROGRAM="$(abspath $(BIN))/ninja" -D ADDERKIT_TESTS=ON $(2)
$(BIN)/cmake --build $(1)
$(BIN)/ctest --test-dir $(1) --output-on-failure
endef
SANITIZE := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all

test-native: $(VENV)/.cmake
	$(call native_tests,build/native)
	$(call native_tests,build/sanitized,-D CMAKE_BUILD_TYPE=Debug -D CMAKE_C_FLAGS="$(SANITIZE)" \
		-D CMAKE_CXX_FLAGS="$(SANITIZE)")

test-aarch64: $(VENV)/.cmake
	@for tool in aarch64-linux-gnu-g++ qemu-aarch64; do command -v $$tool >/dev/null || { \
		echo "$$tool is missing (Debian, Ubuntu: apt install g++-aarch64-linux-gnu qemu-user)" >&2; exit 1; }; done
	$(call native_tests,build/aarch64,-D CMAKE_TOOLCHAIN_FILE=cmake/aarch64-linux-gnu.cmake)

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	find native -name '*.cpp' -o -name '*.[ch]' | xargs $(BIN)/clang-format --dry-run --Werror
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: $(VENV)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find native -name '*.cpp' -o -name '*.[ch]' | xargs $(BIN)/clang-format -i

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: $(BIN)/python $(SOURCES)
	$(BIN)/pip install --quiet .
	touch $@

$(VENV)/.test: $(BIN)/python $(SOURCES)
	$(BIN)/pip install --quiet ".[vision,bench,test]"
	touch $@

$(VENV)/.cmake: $(BIN)/python
	$(BIN)/pip install --quiet "cmake>=3.20" ninja
	touch $@

$(VENV)/.lint: $(BIN)/python $(SOURCES)
	$(BIN)/pip install --quiet ".[vision,bench,lint]"
	touch $@
