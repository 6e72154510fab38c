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
if [ -x .venv/bin/hadolint ]; then check hadolint Dockerfile Dockerfile.cuda tests/docker/pytest.Dockerfile; fi
if docker compose version >/dev/null 2>&1; then
  echo '== docker compose config'
  docker compose --profile cuda config --quiet || failed+=("docker compose config")
fi
if [ ${#failed[@]} -gt 0 ]; then
  printf '\nfailed: %s (make fix repairs lint and format where a machine can)\n' "${failed[*]}" >&2
  exit 1
fi
