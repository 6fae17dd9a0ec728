# `make run` opens OneCard, `make test` runs every test that needs no card; both set up .venv on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# A file at a time to each processor, the browser's files first: they take longest.
SPREAD := -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: run test test-reliability test-gpu check audit gguf clean

run: $(VENV)/.run
	$(BIN)/python app.py $(ARGS)

# At the end the table of the faults that were injected: a part of those of `make test-reliability`.
test: $(VENV)/.dev
	@rm -f $(VENV)/faults-part.jsonl
	ONECARD_TALLY=$(abspath $(VENV)/faults-part.jsonl) $(PYTEST) $(SPREAD) -m "not gpu" $(ARGS); passed=$$?; \
	$(BIN)/python -m tests.reliability.table $(VENV)/faults-part.jsonl && exit $$passed

# Every fault of the reliability suite, the table of what came of them (docs/reliability.md), and the other programs that
# take our folders and make theirs (installed under .venv/interop, gigabytes).
test-reliability: $(VENV)/.reliability
	@rm -f $(VENV)/faults.jsonl
	ONECARD_FULL=1 ONECARD_TALLY=$(abspath $(VENV)/faults.jsonl) $(PYTEST) $(SPREAD) tests/reliability tests/interop tests/test_ranks.py $(ARGS); passed=$$?; \
	$(BIN)/python -m tests.reliability.table $(VENV)/faults.jsonl --write docs/reliability.md --commit "$$(git rev-parse --short HEAD 2>/dev/null)" && exit $$passed

test-gpu: $(VENV)/.dev
	ONECARD_TEST_CUDA=0 $(PYTEST) -m gpu $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Known holes in what is installed, as far as the package index tells of them; what it cannot tell of is listed.
audit: $(VENV)/.run
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/pip install --quiet pip-audit
	$(VENV)/audit/bin/pip-audit --path $(VENV)/lib/python*/site-packages --skip-editable --progress-spinner off

# A stamp, not the interpreter: a venv that broke off half way has an interpreter but no pip.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

# torch first and by its own bound: asked for through another package, pip may fetch the newest CUDA build instead.
$(VENV)/.run: $(VENV)/.made pyproject.toml
	$(BIN)/pip install --quiet "torch>=2.11,<2.14"
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

$(VENV)/.reliability: $(VENV)/.dev
	$(BIN)/pip install --quiet --editable ".[reliability]"
	touch $@

# llama.cpp, for the tests that ask exported GGUF files: compiled, some minutes; without it they are skipped.
gguf: $(VENV)/.gguf

$(VENV)/.gguf: $(VENV)/.run
	CMAKE_ARGS="-DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF -DLLAMA_CURL=OFF $(CMAKE_ARGS)" $(BIN)/pip install --quiet --editable ".[gguf]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache
