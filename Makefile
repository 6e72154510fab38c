# Every target is one line of help; what takes more than a line lives in scripts/.
.DEFAULT_GOAL := help
.PHONY: $(shell awk -F: '/^[a-z0-9-]+:/ { print $$1 }' $(MAKEFILE_LIST))
BIN := .venv/bin
PYTHON ?=
export PYTHON
WORKERS ?= 2

help: ## print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what running needs, and the embedded model
	@scripts/setup.sh

setup-dev: ## install what tests and checks need, too
	@scripts/setup.sh dev

run: setup ## start AirLab on http://127.0.0.1:8080; more arguments: ARGS="--port 9000"
	@exec $(BIN)/airlab serve $(ARGS)

test: setup-dev ## run the tests, two files at a time; some of them: WORKERS=0 ARGS="tests/manifest -k alias"
	@exec $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile $(ARGS)

engine: ## compile the pinned llama-server into .llama/, where airlab finds it; needs g++ and ten minutes
	@scripts/engine.sh all .llama

image: ## build airlab:cpu, what `docker compose up` runs
	@docker compose build airlab

image-cuda: image ## build airlab:cuda, for models on NVIDIA's GPUs; takes the better part of an hour
	@docker compose build cuda

test-docker: setup-dev ## build the images under other names, and test them and compose.yaml in Docker
	@scripts/test-images.sh
	@AIRLAB_TEST_IMAGE=airlab-test:cpu AIRLAB_TEST_REQUIRE_DOCKER=1 $(BIN)/python -m pytest -m docker $(ARGS)

test-llama: setup-dev ## run the tests that need a real llama-server: AIRLAB_TEST_LLAMA_SERVER=/path/to/llama-server
	@AIRLAB_TEST_REQUIRE_LLAMA=1 $(BIN)/python -m pytest -m llama $(ARGS)

test-page: setup-dev ## try the status page in a real browser: needs chromium and chromedriver
	@AIRLAB_TEST_REQUIRE_BROWSER=1 $(BIN)/python -m pytest tests/page $(ARGS)

test-late: setup-dev ## run the tests with every step of AirLab late at random: finds tests that pass by luck
	@AIRLAB_TEST_PROGRAM=tests.support.late $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile $(ARGS)

test-arm64: setup-dev ## boot Debian for arm64 in QEMU, and try the walls round tools there
	@scripts/test-arm64.sh $(ARGS)

test-datasets: setup-dev ## load an export with Hugging Face datasets, which is installed into build/ for it (400 MiB)
	@$(BIN)/python -m venv build/datasets && build/datasets/bin/python -m pip install --quiet datasets
	@AIRLAB_TEST_DATASETS=$(CURDIR)/build/datasets/bin/python $(BIN)/python -m pytest tests/service/test_export_http.py $(ARGS)

fuzz: setup-dev ## 20,000 random edits of a manifest, parsed and put in force
	@AIRLAB_FUZZ_EXAMPLES=20000 $(BIN)/python -m pytest tests/manifest/test_random_edits.py tests/live/test_random_edits.py $(ARGS)

fuzz-tools: setup-dev ## 20,000 random tool calls, and 30 s of swapped links against tools that write
	@AIRLAB_FUZZ_CALLS=20000 AIRLAB_RACE_S=30 $(BIN)/python -m pytest -s tests/tools/test_outside.py $(ARGS)

fuzz-fleet: setup-dev ## 10,000 random steps of the fleet: loads, requests, cancels, crashes, evictions, edits, stops
	@AIRLAB_FUZZ_FLEET_STEPS=10000 $(BIN)/python -m pytest tests/fleet/test_fleet_machine.py $(ARGS)

soak-tools: setup-dev ## 30 s of swapped links against tools that read, then 1,000 calls; other numbers: ARGS="300 10000"
	@exec $(BIN)/python -m tests.soak.tools $(ARGS)

soak-reload: setup-dev ## 1,000 reloads under eight streaming clients, one file in three broken: ARGS="1000"
	@exec $(BIN)/python -m tests.soak.reload $(ARGS)

soak-kill: setup-dev ## kill -9 at 50 random moments of 200 concurrent turns: ARGS="50"
	@exec $(BIN)/python -m tests.soak.kill $(ARGS)

soak-fleet: setup-dev ## a minute of every fault at random, under load over five models, one of them elsewhere; longer: ARGS="1800"
	@exec $(BIN)/python -m tests.soak.fleet $(ARGS)

check: setup-dev ## lint, format, types, import direction, generated pages: what CI runs before the tests
	@scripts/check.sh

fix: setup-dev ## repair what a machine can: lint and format
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

docs: setup-dev ## write the generated pages: docs/airlab.schema.json, docs/manifest.md
	@$(BIN)/python scripts/docs.py

smoke: setup ## ask a running AirLab one of everything: AIRLAB_URL=http://127.0.0.1:8080
	@$(BIN)/python scripts/smoke.py

bench: setup-dev ## measure
	@exec $(BIN)/python -m bench $(ARGS)

bench-fit: setup-dev ## predicted against measured memory: AIRLAB_TEST_LLAMA_SERVER=/path/to/llama-server
	@exec $(BIN)/python -m bench.fit

lock: setup-dev ## pin the newest allowed versions of all packages again (needs uv)
	@scripts/lock.sh

clean: ## remove what setup, tests and checks made; models/ and .airlab/ stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build *.egg-info
	find app bench scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
