# `make demo` and `make test` do everything on a fresh machine with Python 3.11: they create .venv and install what they need.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
GATE := $(BIN)/squeeze-export gate --baseline tools/demo/baseline.json --max-size 1MB --max-fallbacks 0 --undecided pass
PIP := $(BIN)/python -m pip --disable-pip-version-check -q install -c constraints.txt

.DEFAULT_GOAL := check
.PHONY: check demo test lint types format bench bench-gpu clean

check: lint types test

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@# Named exactly, torch comes as its CPU build where an index offers one; as a range it may bring gigabytes of CUDA.
	$(PIP) torch==2.13.0
	$(PIP) -e '.[dev]'
	touch $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/squeeze-export all --int8 --out demo-out
	@echo; echo 'The gate: does the demo network still give what the committed baseline says? On another CPU some of it is undecided.'
	$(GATE) demo-out/report.json
	@echo; echo 'The same with a planted fault, BGR pixels for RGB ones: the gate has to fail.'
	$(BIN)/squeeze-export all --int8 --no-bench --channel-order bgr --out demo-out/bgr >demo-out/bgr.txt
	@$(GATE) demo-out/bgr/report.json; code=$$?; echo "exit code $$code, expected 5"; test $$code -eq 5

test: $(INSTALLED)
	@# A default runtime of these targets that is missing is a failure, not a skip. One thread for each worker. Compiled modules are
	@# kept, as many tests start a process that imports them again. `make test COVERAGE=1`, as CI runs it, counts coverage as well.
	SQUEEZE_EXPORT_REQUIRE=onnx,tflite,openvino,coreml,coreai OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 3 $(if $(COVERAGE),--cov --cov-report=term --cov-fail-under=90)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)
	$(PIP) -e '.[dev,peers]'
	rm -rf $(VENV)/benchmark-files
	$(BIN)/python -m benchmarks.accuracy_vs_vendor --files $(VENV)/benchmark-files
	$(BIN)/python -m benchmarks.agreement_vs_vendor --files $(VENV)/benchmark-files
	$(BIN)/python -m benchmarks.latency_vs_vendor --files $(VENV)/benchmark-files
	$(BIN)/python -m benchmarks.size_vs_vendor --files $(VENV)/benchmark-files
	$(BIN)/python -m benchmarks.export_time_vs_vendor
	$(BIN)/python -m benchmarks.weights_only
	$(BIN)/python -m benchmarks.all_targets
	$(BIN)/python -m benchmarks.same_integers
	$(BIN)/python -m benchmarks.coreai_forms
	$(BIN)/python -m benchmarks.accuracy
	$(BIN)/python -m benchmarks.recipe_ablation
	$(BIN)/python -m benchmarks.best_ablation
	$(BIN)/python -m benchmarks.recipe_time
	$(BIN)/python -m benchmarks.int8_speedup
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.portability
	$(BIN)/python -m benchmarks.schemes
	$(BIN)/python -m benchmarks.qat
	$(BIN)/python -m benchmarks.wrong_pixels
	$(BIN)/python -m benchmarks.batch_norm_clothing
	$(BIN)/python -m benchmarks.ethosu_cycles
	$(BIN)/python -m benchmarks.qnn_accuracy
	$(BIN)/python -m benchmarks.qnn_socs
	$(BIN)/python -m benchmarks.side_by_side
	$(BIN)/python -m benchmarks.embed

bench-gpu: $(INSTALLED)
	$(BIN)/python -m benchmarks.gpu

clean:
	rm -rf $(VENV) demo-out squeeze-export-out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage *.egg-info
