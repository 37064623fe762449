# `make demo` and `make test` are all that a fresh clone needs; each makes the virtual environment first.

# The Python to build the environment with, 3.11 or newer.
PYTHON ?= python3
# Options for pip, for example an index with CPU builds of torch:
#   make demo PIP_OPTIONS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_OPTIONS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
MODELS := runtime/nin_edge_runtime/models
JS := runtime/js

.PHONY: demo test js c lint format wheel model figures

# Export the default weights in all precisions, compare the files, label a photo, and draw what the
# label is based on (demo/cat.png). Then the same with the weights that know photos (demo/coffee.png).
demo: $(INSTALLED)
	$(BIN)/nin-edge export --output demo
	$(BIN)/nin-edge verify demo/nin-cifar10.int8.onnx
	$(BIN)/nin-edge bench --threads 1 --batch 1 --rounds 60 demo/nin-cifar10.fp32.onnx \
		demo/nin-cifar10.fp16.onnx demo/nin-cifar10.int8.onnx
	$(BIN)/nin-edge run examples/cat.jpg --model demo/nin-cifar10.int8.onnx --top-k 5 --heatmap demo/cat.png
	$(BIN)/nin-edge export nin-photo --precision int8 --output demo
	$(BIN)/nin-edge run examples/coffee.jpg --model demo/nin-photo.int8.onnx --top-k 5 --heatmap demo/coffee.png
	@echo "in the browser: $(BIN)/nin-edge web demo/nin-cifar10.int8.onnx --output demo/page --download"

# One process per core, with one thread each: more threads than cores would halve the speed.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist worksteal

# nin-edge-js: its packages, types and tests. It needs Node 18 or newer and npm, which nothing else
# here does; once it ran, `make test` compares the package with the Python runtime, too.
js: $(JS)/node_modules/.installed
	cd $(JS) && npm run --silent check && npm test --silent

# The first line says what is missing. ONNX Runtime's own script would fetch CUDA.
$(JS)/node_modules/.installed: $(JS)/package.json $(JS)/package-lock.json
	@command -v npm >/dev/null || { echo "make js: needs Node 18 or newer, with npm"; exit 2; }
	cd $(JS) && ONNXRUNTIME_NODE_INSTALL=skip npm ci
	touch $@

# The C library, with each of gcc and clang that is here: warnings are errors, and its tests run under
# UBSan, and valgrind where that is here. `make test` tests it, too, but without valgrind.
c: $(INSTALLED)
	@command -v cmake >/dev/null || { echo "make c: needs CMake, and gcc or clang"; exit 2; }
	@set -e; for compiler in gcc clang; do \
		command -v $$compiler >/dev/null || { echo "make c: no $$compiler, skipped"; continue; }; \
		cmake -S runtime/c -B build/c-$$compiler -DCMAKE_C_COMPILER=$$compiler -DNIN_EDGE_WERROR=ON \
			-DPython3_EXECUTABLE="$(CURDIR)/$(BIN)/python"; \
		cmake --build build/c-$$compiler; \
		ctest --test-dir build/c-$$compiler --output-on-failure; \
	done

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	cd runtime && ../$(BIN)/mypy
	$(BIN)/python -m benchmarks.render --check

format: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Both wheels, in dist/.
wheel: $(INSTALLED)
	$(BIN)/python -m build --wheel --no-isolation --outdir dist runtime
	$(BIN)/python -m build --wheel --no-isolation --outdir dist

# The runtime's default model, from the weights that the toolkit ships. Its certificate is measured on
# the archive that they were trained on:
#   make model EVAL_DATA=cifar10-jpeg.tar.xz
model: $(INSTALLED)
	@test -n "$(EVAL_DATA)" || { echo "make model: name the archive, EVAL_DATA=cifar10-jpeg.tar.xz"; exit 2; }
	$(BIN)/nin-edge export --precision int8 --eval-data "$(EVAL_DATA)" --output build/model
	cp build/model/nin-cifar10.int8.onnx $(MODELS)

# The figures and tables of the docs, on an idle machine in about 20 minutes. It needs Chromium, CMake
# and a C compiler, too. PHOTOS, folders of large JPEGs, are for the table of reduced decoding:
#   make figures DATA=cifar10-jpeg.tar.xz PHOTOS=wallpapers
figures: $(INSTALLED) $(JS)/node_modules/.installed
	@test -n "$(DATA)" || { echo "make figures: name the archive, DATA=cifar10-jpeg.tar.xz"; exit 2; }
	$(BIN)/python -m benchmarks.all "$(DATA)" $(if $(PHOTOS),--photos $(PHOTOS))
	$(BIN)/python -m benchmarks.render

# The stamp is written last: an interrupted installation is done again.
$(INSTALLED): pyproject.toml runtime/pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(PIP_OPTIONS) --constraint constraints.txt --editable "runtime[cpu]" --editable ".[dev]"
	touch $@
