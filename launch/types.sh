#!/usr/bin/env bash
# Type-check the product. A checker cannot follow multicrop's search path (the folders lie beside the package), so it
# reads them through links in .types/, laid out as a wheel lays out the files.
#
#   launch/types.sh                   # any arguments go to mypy
#
# PYTHON  an interpreter that has the requirements and those of tests/requirements.txt (default: python3)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
rm -rf .types
mkdir -p .types/multicrop
for entry in "$PWD"/multicrop/*.py; do ln -s "$entry" .types/multicrop/; done
for folder in commands config engine weights ssl supervised augment probes models datasets pictures; do
    ln -s "$PWD/$folder" .types/multicrop/
done
MYPYPATH=.types exec "${PYTHON:-python3}" -m mypy -p multicrop "$@"
