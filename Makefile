# All that a machine needs is Python 3.11 or later and make: every target first sets up .venv, once.

VENV := .venv
PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
CODE := src services schemas tests examples
UV := .cache/uv/bin/uv
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-header --upgrade pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help demo test check bench wheel requirements clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

demo: $(INSTALLED)  ## run a shop on Everstep while its processes are killed; KEEP=1 leaves it running
	@KEEP=$(KEEP) $(PYTHON) -m examples.orders.demo

# Compiled once: the many processes that tests start would do it anew each where Python is told to write no bytecode.
test: $(INSTALLED)  ## run all tests on a real Kafka and PostgreSQL; ARGS="-k name -x" goes to pytest
	@$(PYTHON) -m compileall -q $(CODE)
	@$(PYTHON) -m pytest $(ARGS)

check: $(INSTALLED)  ## check format, lint, types and layers
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy $(CODE) benchmarks/harness benchmarks/everstep benchmarks/run_all.py
	$(VENV)/bin/pyright --pythonpath $(PYTHON)
	$(VENV)/bin/lint-imports

bench: $(INSTALLED)  ## measure Everstep beside another engine; ARGS="--quick" for a short run
	@$(PYTHON) benchmarks/run_all.py $(ARGS)

wheel: $(INSTALLED)  ## build the wheel into dist
	$(PYTHON) -m build --wheel --no-isolation --outdir dist

# uv resolves for every Python and platform at once; the files that it writes are installed by pip.
requirements:  ## pin the newest allowed versions of all dependencies, with hashes
	@$(call environment,.cache/uv)
	@.cache/uv/bin/python -m pip install --quiet uv
	$(COMPILE) --extra speed --output-file requirements/runtime.txt
	$(COMPILE) --all-extras requirements/dev.in --constraint requirements/runtime.txt \
		--output-file requirements/dev.txt

clean:  ## remove what can be built again, but for .venv
	rm -rf .cache dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find $(CODE) -name __pycache__ -prune -exec rm -rf {} +

$(INSTALLED): requirements/dev.txt pyproject.toml
	@$(call environment,$(VENV))
	@echo "Installing what Everstep needs into $(VENV) ..."
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# Makes the environment $(1) with the first Python on the PATH that is new enough and can make one.
define environment
test -x $(1)/bin/python || { \
	for python in python3 python3.14 python3.13 python3.12 python3.11; do \
		"$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null || continue; \
		found=$$python; "$$python" -m venv $(1) >/dev/null && exit 0; rm -rf $(1); \
	done; \
	if test -n "$$found"; then \
		echo "$$found cannot make virtual environments: install its venv module (Debian, Ubuntu: apt install python3-venv)."; \
	else \
		echo "Everstep needs Python 3.11 to 3.14; none is on the PATH (python3 is $$(python3 --version 2>&1))."; \
	fi >&2; exit 1; }
endef
