#!/usr/bin/env bash
# Install what the tests need into a fresh virtual environment (.venv) and run all of them. The one test command of the project.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then # the browser, and drawing without a screen
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends chromium libegl1 libegl-mesa0 libgl1 libglx-mesa0 libgl1-mesa-dri libxrender1 libxkbcommon0 >/dev/null
fi
python3 -m venv .venv
.venv/bin/pip install --quiet --constraint constraints.txt --editable '.[train,test,web,gui]'
if [ "${CI:-}" = true ]; then # a missing package is a failure there, not a reason to skip
  export UAE_REQUIRE_MRML=1 UAE_REQUIRE_GUI=1
fi
.venv/bin/ruff check .
.venv/bin/mypy
.venv/bin/python -m pytest "$@"
