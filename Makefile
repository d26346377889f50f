# Five words: demo test check bench docs. Each does its own set-up; nothing has to be activated.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check bench docs audit clean

$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[train,int8,dev,docs]"
	touch $@

demo: $(VENV)/.ready
	$(BIN)/sentinode demo --out demo

# Two processes of one thread each: threads of two processes that wait for each other on two cores burn both. Each
# begins with one half of the tests as they stand, so that what a module's tests share is mostly made once.
test: export OMP_NUM_THREADS := 1
test: export OPENBLAS_NUM_THREADS := 1
test: $(VENV)/.ready
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q --no-header src
	$(MAKE) docs

bench: $(VENV)/.ready
	$(BIN)/python benchmarks/all.py

docs: $(VENV)/.ready
	$(BIN)/python docs/pictures.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Asks the internet for known faults of the pinned libraries; in an environment of its own, which is no dependency.
audit:
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	build/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

clean:
	rm -rf $(VENV) build dist site demo docs/pictures
