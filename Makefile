# The ways in. `make demo` and `make up` need nothing but Python 3.11+.
PYTHON ?= python3
VENV ?= .venv
TESTS_AT_ONCE ?= 2
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo up test check bench chaos clean

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/python examples/demo.py $(if $(SUBJECT),--subject $(SUBJECT)) $(if $(PHOTOS),--photos $(PHOTOS)) $(if $(KIND),--kind $(KIND))

up: $(STAMP)
	$(BIN)/likeness up

test: $(STAMP)
	$(BIN)/python -m pytest -n $(TESTS_AT_ONCE) --dist loadfile --no-loadscope-reorder

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python -m benchmarks

chaos: $(STAMP)
	$(BIN)/python -m benchmarks.chaos $(if $(FAULTS),--faults $(FAULTS)) $(if $(SEED),--seed $(SEED)) $(if $(JSON),--json $(JSON))

clean:
	rm -rf var build *.egg-info
