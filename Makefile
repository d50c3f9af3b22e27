# The habits of this repository; `make` alone lists them.
#
# VENV    where the environment lives (default: .venv of this folder)
# PYTHON  an interpreter that already has all requirements: nothing is installed then

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
ENVIRONMENT := source launch/_environment.sh dev;

.PHONY: help setup test fast faults lint types demo docs

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## Make the environment: what runs and tests need
	@$(ENVIRONMENT) echo "ready: $$PYTHON"

test:  ## Everything that CI runs: lint, types and all tests
	@launch/test.sh

fast:  ## The tests without the slow ones, on all cores
	@$(ENVIRONMENT) "$$PYTHON" -m pytest -q -n auto --dist loadfile -m "not slow"

faults:  ## Damaged files, full disks and random kills, in full, counted: an hour and more
	@$(ENVIRONMENT) "$$PYTHON" tests/faults/matrix.py

lint:  ## Check style and format, change nothing
	@$(ENVIRONMENT) "$$PYTHON" -m ruff check . && "$$PYTHON" -m ruff format --check .

types:  ## Check the types of the product
	@$(ENVIRONMENT) launch/types.sh

demo:  ## Pretrain, probe and finetune on the embedded images, with pictures and a table
	@launch/demo.sh

docs:  ## Build the documentation into site/, warnings are errors
	@$(ENVIRONMENT) "$$PYTHON" -c 'import material' 2>/dev/null || "$$PYTHON" -m pip install -q -r docs/requirements.txt
	@$(ENVIRONMENT) "$$PYTHON" -m mkdocs build --strict
