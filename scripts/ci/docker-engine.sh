#!/usr/bin/env bash
# For CI on a fresh Debian, as root: Docker's engine, compose, buildx and mmdebstrap, and a running daemon. What is there
# already stays as it is. Prints the pid of the daemon if it started one, for whoever has to stop it.
set -euo pipefail
log=${1:?where the daemon may write its log}

has() { command -v "$1" >/dev/null 2>&1; }
wanted=()
has dockerd || wanted+=(docker.io)
has docker || wanted+=(docker-cli)
docker compose version >/dev/null 2>&1 || wanted+=(docker-compose)
docker buildx version >/dev/null 2>&1 || wanted+=(docker-buildx)
has mmdebstrap || wanted+=(mmdebstrap)

if [ ${#wanted[@]} -gt 0 ]; then
  from=
  if [ "$(. /etc/os-release && echo "${VERSION_CODENAME:-}")" = bookworm ]; then
    # Its engine is old and its compose is the one of 2021: these come from the next Debian, which nothing else does.
    mirror=$({ sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/*.sources; awk '$1 == "deb" { print $2 }' /etc/apt/sources.list; } 2>/dev/null | head -n 1 || true)
    printf 'Types: deb\nURIs: %s\nSuites: trixie\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n' \
      "$mirror" >/etc/apt/sources.list.d/airlab-ci-trixie.sources
    printf 'Package: *\nPin: release n=trixie\nPin-Priority: 100\n' >/etc/apt/preferences.d/airlab-ci-trixie
    from=/trixie
  fi
  packages=()
  for name in "${wanted[@]}"; do
    if [ "$name" = mmdebstrap ]; then packages+=("$name"); else packages+=("$name$from"); fi
  done
  echo "ci: installing ${packages[*]}" >&2
  apt-get update -qq >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi

if docker info >/dev/null 2>&1; then exit 0; fi
echo "ci: starting dockerd" >&2
setsid dockerd >"$log" 2>&1 </dev/null &
daemon=$!
for _ in $(seq 150); do
  if docker info >/dev/null 2>&1; then echo "$daemon"; exit 0; fi
  sleep 0.2
done
tail -n 40 "$log" >&2
kill "$daemon" 2>/dev/null || true
echo "ci: dockerd did not answer within 30 s; the end of its log is above" >&2
exit 1
