#!/usr/bin/env bash
# All checks, each one's output shown, whatever the others said; fails if one failed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
failed=()
check() {
  printf '== %s\n' "$*"
  ".venv/bin/$@" || failed+=("$1")
}
check ruff check .
check ruff format --check .
check mypy
check lint-imports
check python scripts/docs.py --check
if [ ${#failed[@]} -gt 0 ]; then
  printf '\nfailed: %s (make fix repairs lint and format where a machine can)\n' "${failed[*]}" >&2
  exit 1
fi
