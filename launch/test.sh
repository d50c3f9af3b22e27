#!/usr/bin/env bash
# Set up a virtual environment and pass the tests, from nothing:
#
#   launch/test.sh                    # everything, as CI does
#   launch/test.sh -m "not slow"      # any arguments of pytest
#
# VENV    where the environment lives (default: .venv of this folder)
# PYTHON  an interpreter that already has the requirements and those of tests/requirements.txt: nothing is installed then
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/_environment.sh dev

"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
launch/types.sh
for script in launch/*.sh launch/*.sbatch .ci/run; do bash -n "$script"; done
exec "$PYTHON" -m pytest -n auto --dist loadfile "$@"  # a worker per core, each file in one of them
