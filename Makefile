# Everything from a bare python3: `make demo`, `make test`, `make lint`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python

.PHONY: install demo test test-slow test-all lint dist check-wheel clean

install: $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/hear-dasheng demo --out demo

# A process a core, each with one thread: most tests wait for children, or are too small for two threads.
test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n auto --maxprocesses 4 --dist loadfile

test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m slow

test-all: test test-slow

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# A source distribution, and the wheel built from it.
dist: $(VENV)/.installed-test
	rm -rf dist
	$(BIN)/python -m build --installer uv --outdir dist . >$(VENV)/build.log 2>&1 || { cat $(VENV)/build.log; exit 1; }
	$(BIN)/twine check --strict dist/*

# The wheel as a user installs it: alone, in an empty environment, outside the checkout.
check-wheel: dist
	rm -rf $(VENV)-wheel
	$(PYTHON) -m venv $(VENV)-wheel
	$(BIN)/uv pip install --quiet --python $(VENV)-wheel/bin/python dist/*.whl
	$(VENV)-wheel/bin/python tests/check_wheel.py
	rm -rf $(VENV)-wheel

# The official tools go in without their own, unsatisfiable, requirements.
$(VENV)/.installed: setup.py eval_recipes/official_pins.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@echo "Installing torch and the evaluation tools into $(VENV) (about 3 GB to download)"
	$(UV) --editable '.[all]'
	$(UV) --no-deps $$($(BIN)/python eval_recipes/official_pins.py)
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(UV) --editable '.[test]'
	$(UV) --no-deps $$($(BIN)/python eval_recipes/official_pins.py --test)
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-wheel demo build dist *.egg-info
