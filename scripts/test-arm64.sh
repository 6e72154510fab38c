#!/usr/bin/env bash
# The walls round tools on a real arm64 kernel: Debian's, booted in QEMU with this tree and the pinned packages.
# Needs 3 GiB of memory, and root or uidmap; no arm64 machine. `test-arm64.sh TEST...` runs others of the tests in there.
# Debian comes from where this system's apt has it; AIRLAB_DEBIAN_MIRROR=URL names another place.
# Leaves nothing, however it ends.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$(pwd -P)

SUITE=trixie
PYTHON=3.13 # the suite's
LIMIT_S=3600
KERNEL=linux-image-cloud-arm64 # nothing that a machine without devices lacks, a quarter of the size
PACKAGES=base-files,coreutils,dash,findutils,grep,iproute2,libc-bin,linux-libc-dev,mount,procps,python3,sed,util-linux
NOT_NEEDED='^(cryptography|gguf|import-linter|mypy|numpy|openai|ruff|uvloop|xllamacpp)==' # large; no test in there has them

fail() { printf '\ntest-arm64: %s\n' "$*" >&2; exit 1; }

for pair in qemu-system-aarch64:qemu-system-arm mmdebstrap:mmdebstrap cpio:cpio setpriv:util-linux; do
  command -v "${pair%:*}" >/dev/null || fail "there is no ${pair%:*} here
  to fix: apt-get install --no-install-recommends ${pair#*:}"
done

mirror() { # where apt has Debian from; the same suite's place first
  apt-get indextargets --format '$(RELEASE) $(SITE)' 'Created-By: Packages' 'Origin: Debian' 'Component: main' |
    awk -v suite="$SUITE" '$1 == suite { best = $2 } $1 !~ /-/ { any = $2 } END { print best ? best : any }'
}
mirror=${AIRLAB_DEBIAN_MIRROR:-$(mirror)}
[ -n "$mirror" ] || fail "apt has no Debian here
  to fix: AIRLAB_DEBIAN_MIRROR=URL make test-arm64"

# Everything in memory where there is some; mmdebstrap's user of no rights has to get at it.
scratch=$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo "${TMPDIR:-/tmp}")" airlab-arm64.XXXXXX)
chmod 755 "$scratch"
qemu=
clean_up() {
  if [ -n "$qemu" ]; then kill "$qemu" 2>/dev/null || true; wait "$qemu" || true; fi
  rm -rf --one-file-system "$scratch"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

begin=$SECONDS
say() { printf 'test-arm64: %4d s  %s\n' "$((SECONDS - begin))" "$*"; }

say "the pinned packages, for arm64"
awk -v drop="$NOT_NEEDED" '/^[a-z]/ { keep = $0 !~ drop } keep' requirements-dev.txt >"$scratch/requirements.txt"
"$root/.venv/bin/python" -m pip install --quiet --quiet --disable-pip-version-check --require-hashes --no-deps \
  --no-compile --only-binary=:all: --implementation cp --python-version "$PYTHON" \
  --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 \
  --target "$scratch/tree/usr/local/lib/python$PYTHON/dist-packages" --requirement "$scratch/requirements.txt"

say "this tree"
mkdir "$scratch/tree/airlab"
tar --exclude=__pycache__ -c app tests pyproject.toml airlab.yaml | tar -x -C "$scratch/tree/airlab"
cat >"$scratch/tree/init" <<INIT
#!/bin/sh
# The first process in there; the line that it says at the end is what test-arm64.sh ends with.
export PATH=/usr/sbin:/usr/bin HOME=/root LANG=C.UTF-8
mount -t proc none /proc && mount -t sysfs none /sys && mount -t devtmpfs none /dev &&
  mount -t securityfs none /sys/kernel/security &&
  mount -t tmpfs -o mode=1777 none /tmp && mkdir /dev/shm && mount -t tmpfs -o mode=1777 none /dev/shm &&
  ip link set lo up && cd /airlab && python3 -m tests.arm64 ${*@Q}
echo "test-arm64: status \$?"
echo o >/proc/sysrq-trigger
sleep 60
INIT
chmod 755 "$scratch/tree/init"

say "Debian $SUITE, packed with both"
# Unpacked only: what its packages would run to settle in needs an arm64 machine.
cat >"$scratch/pack" <<PACK
set -eu
cd "\$1"
mkdir -p proc sys dev tmp run root
rm -rf usr/lib/modules usr/share/doc usr/share/locale usr/share/man
echo 'root:x:0:0:root:/root:/bin/sh' >etc/passwd
echo 'nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin' >>etc/passwd
echo '127.0.0.1 localhost' >etc/hosts
chmod 755 .
tar -c --owner=0 --group=0 -C "$scratch/tree" . | tar -x
mv boot/vmlinuz-* kernel
rm -r boot
find . '(' -path './dev/*' -o -path './proc/*' -o -path './sys/*' -o -path ./kernel -o -path ./system ')' -prune -o -print |
  cpio --quiet -o -H newc >system
PACK
TMPDIR=$scratch mmdebstrap --quiet --arch=arm64 --variant=extract --skip=check/qemu --include="$KERNEL,$PACKAGES" \
  --extract-hook="sh '$scratch/pack' \"\$1\"" --extract-hook="download /kernel '$scratch/kernel'" \
  --extract-hook="download /system '$scratch/system'" "$SUITE" /dev/null "$mirror"
rm -r "$scratch/tree"

say "booting it"
# pauth-impdef: signing pointers as Arm's own silicon does takes an emulator most of its time.
setpriv --pdeathsig TERM timeout "$LIMIT_S" qemu-system-aarch64 \
  -machine virt -cpu max,pauth-impdef=on -smp 2 -m 3G -nic none -display none -monitor none -no-reboot \
  -kernel "$scratch/kernel" -initrd "$scratch/system" -append "console=ttyAMA0 quiet panic=-1 rdinit=/init" \
  -serial "file:$scratch/console" </dev/null &
qemu=$!
touch "$scratch/console"
tail -f -n +1 --pid="$qemu" "$scratch/console" &
wait "$qemu" || fail "QEMU ended with $? after $((SECONDS - begin)) s (124: longer than $LIMIT_S s)"
qemu=
wait
status=$(tr -d '\r' <"$scratch/console" | sed -n 's/^test-arm64: status \([0-9]*\)$/\1/p')
say "done"
[ -n "$status" ] || fail "the system in QEMU ended without a word"
exit "$status"
