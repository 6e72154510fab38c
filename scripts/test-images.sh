#!/usr/bin/env bash
# Builds the images that tests/docker run, under names of their own: airlab-test:cpu and airlab-test:cuda.
# AIRLAB_TEST_LLAMA_SERVER saves the compile: its folder becomes the engine. PYTHON_IMAGE is the base, as everywhere.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
arguments=(--quiet --build-arg "PYTHON_IMAGE=${PYTHON_IMAGE:-python:3.13-slim-trixie}")
if [ -n "${AIRLAB_TEST_LLAMA_SERVER:-}" ]; then
  folder=$(dirname "$(realpath "$AIRLAB_TEST_LLAMA_SERVER")")
  before=$(docker image ls --quiet airlab-test-engine:given)
  tar -C "$folder" -c --transform='s,^\.,engine,' . | docker import - airlab-test-engine:given >/dev/null
  if [ -n "$before" ]; then docker image rm "$before" >/dev/null; fi
  arguments+=(--build-arg ENGINE_IMAGE=airlab-test-engine:given)
fi
begin=$SECONDS
docker build "${arguments[@]}" --tag airlab-test:cpu . >/dev/null
echo "images: airlab-test:cpu, $((SECONDS - begin)) s"
if [ -n "${AIRLAB_TEST_LLAMA_SERVER:-}" ]; then
  # The last steps of the other image, on a stand-in for what it takes an hour to compile.
  docker build "${arguments[@]}" --build-arg APPLIANCE_IMAGE=airlab-test:cpu --file Dockerfile.cuda --tag airlab-test:cuda . >/dev/null
  echo "images: airlab-test:cuda with the same engine"
fi
