#!/usr/bin/env bash
# Resolve pyproject.toml into requirements*.txt again: for every platform and Python we allow, with hashes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
uv=$(PATH="$PWD/.venv/bin:$PATH" command -v uv) || {
  echo "lock: uv is not installed; to fix: .venv/bin/python -m pip install uv" >&2
  exit 1
}
# --no-config, no index line, no header: nothing of the machine that resolved them gets into the files.
compile() { "$uv" pip compile --quiet --upgrade --universal --generate-hashes --no-header --no-emit-index-url \
  --no-emit-find-links --python-version 3.11 "$@"; }
compile pyproject.toml --output-file requirements.txt
compile pyproject.toml --group dev --constraint requirements.txt --output-file requirements-dev.txt
compile --group pyproject.toml:engine --no-annotate --output-file requirements-engine.txt
compile --group pyproject.toml:cuda --no-annotate --output-file requirements-cuda.txt
