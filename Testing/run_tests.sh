#!/usr/bin/env bash
# Install what the tests need into a fresh virtual environment (.venv) and run all of them. The one test command of the project.
set -euo pipefail
cd "$(dirname "$0")/.."
python3 -m venv .venv
.venv/bin/pip install --quiet --constraint constraints.txt --editable '.[train,test]'
.venv/bin/ruff check .
.venv/bin/mypy
.venv/bin/python -m pytest "$@"
