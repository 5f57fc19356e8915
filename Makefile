# Two commands on a machine with Python 3.11+ and nothing else: `make figures`, `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHONPATH :=

.PHONY: figures demo test lint bench screenshots environment clean

environment: $(VENV)/installed

# pip resolves torch and torchvision together (see pyproject.toml). About 6 GB, a few minutes.
$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@

figures: environment
	$(BIN)/python notebooks/build.py

# The demo as a page of its own, for this computer only. Cells tagged "book" are for readers.
DEMO := --Voila.ip=127.0.0.1 --TagRemovePreprocessor.enabled=True --TagRemovePreprocessor.remove_cell_tags=book

demo: environment
	cd notebooks && ../$(BIN)/voila 07_interactive_demo.ipynb $(DEMO)

test: environment lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist=worksteal tests
	PASTA_FIGURES=$$(mktemp -d) OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist=loadfile --nbval-lax --nbval-current-env \
	  --nbval-sanitize-with tests/nbval_sanitize.cfg notebooks

lint: environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# What the demo looks like, by a headless Chromium: fig07_demo*.png and the README's moving picture.
screenshots: environment
	PASTA_SCREENSHOTS=figures $(BIN)/pytest tests/test_browser.py

bench: environment
	$(BIN)/python tests/benchmarks/bench_em.py
	$(BIN)/python tests/benchmarks/bench_world.py
	$(BIN)/python tests/benchmarks/bench_user_model.py
	$(BIN)/python tests/benchmarks/bench_simulator.py

clean:
	rm -rf $(VENV) build *.egg-info
