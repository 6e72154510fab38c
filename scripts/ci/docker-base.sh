#!/usr/bin/env bash
# For CI, where no image registry is in reach: a base image like Docker's python:3.13-slim-trixie, out of Debian's
# packages, under a name of its own. The host's own certificates go in, so that pip reaches what it reaches out here.
set -euo pipefail
tag=${1:?the name of the image}
if docker image inspect "$tag" >/dev/null 2>&1; then exit 0; fi
# In memory: waiting for the disk to have written every small file would take four times as long.
work=$(mktemp -d -p /dev/shm)
trap 'rm -rf "$work"' EXIT
mirror=$({ sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/*.sources; awk '$1 == "deb" { print $2 }' /etc/apt/sources.list; } 2>/dev/null | head -n 1 || true)
cat >"$work/finish" <<'HOOK'
#!/bin/sh
set -eu
for certificate in /usr/local/share/ca-certificates/*.crt; do
  if [ -e "$certificate" ]; then cp "$certificate" "$1/usr/local/share/ca-certificates/"; fi
done
chroot "$1" update-ca-certificates >/dev/null 2>&1
ln -sf /usr/bin/python3 "$1/usr/local/bin/python3"
HOOK
chmod +x "$work/finish"
TMPDIR=$work mmdebstrap --quiet --variant=minbase --dpkgopt=force-unsafe-io --aptopt='Acquire::Languages "none"' \
  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
  --include=ca-certificates,python3,python3-venv --customize-hook="$work/finish" \
  trixie "$work/base.tar" "$mirror" 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
# From a file: a pipe would leave an empty image under the name if mmdebstrap failed.
docker import -c 'CMD ["bash"]' -c 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8' \
  "$work/base.tar" "$tag" >/dev/null
