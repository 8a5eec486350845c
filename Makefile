# Every target brings what it needs; nothing is installed outside .venv and build/, but for test-containers an engine, where root has none.
# The first of these that is there; set PYTHON to name another.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do $$p -c "import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))" 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_SECONDS ?=
# Two cores carry the services and the tests of two workers.
TEST_WORKERS ?= 2
# What runs on containers too, beside the tests of the containers themselves.
CONTAINER_TESTS ?= tests/integration

.PHONY: help setup lock check format test test-servers test-monitoring test-containers faults-control bench bench-memory bench-startup bench-registry bench-rollback bench-backends bench-log bench-tracing bench-scrape demo screenshot docs clean

help: ## show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 18

setup: $(STAMP) ## make .venv with the pinned dependencies

$(STAMP): constraints.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "headrace: no Python from 3.11 to 3.13 found; install one, or set PYTHON to it" >&2; exit 1; }
	@echo "== virtual environment in $(VENV)"
	$(PYTHON) -m venv $(VENV)
	@echo "== pinned dependencies"
	$(BIN)/python -m pip install --quiet --require-hashes -r constraints.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

lock: $(STAMP) ## pin the dependencies of pyproject.toml anew
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header \
	  --python-version 3.11 pyproject.toml --extra local --extra otel --extra dev -o constraints.txt

check: $(STAMP) ## lint, types, import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(STAMP) ## write docs/schemas and docs/asyncapi.json anew from the models
	$(BIN)/headrace schemas --out docs

test: $(STAMP) ## every test, on real Kafka, PostgreSQL and Redis that it starts itself
	$(BIN)/pytest -n $(TEST_WORKERS) --dist loadgroup tests

test-servers: $(STAMP) ## every backend on real model servers, each in an environment of its own below build/
	@$(BIN)/python -m tests.servers.environments
	$(BIN)/pytest -n $(TEST_WORKERS) --dist loadgroup tests/servers

test-monitoring: $(STAMP) ## a real Prometheus, its rules and the dashboard's queries, a real Alertmanager, and the live page in Chromium
	@$(BIN)/python -m tests.monitoring.binaries
	@$(BIN)/python -m tests.monitoring.browser
	$(BIN)/pytest -n $(TEST_WORKERS) --dist loadgroup tests/monitoring

test-containers: $(STAMP) ## the integration tests on containers, the image, and the composed system; CONTAINER_TESTS=, OFFICIAL_IMAGES=1
	$(BIN)/python -m tests.containers.images $(BIN)/pytest -n $(TEST_WORKERS) --dist loadgroup --stack=containers $(CONTAINER_TESTS)
	$(BIN)/python -m tests.containers.images $(BIN)/pytest tests/containers

faults-control: $(STAMP) ## kill the control worker at every step, and stop PostgreSQL for long; CONTROL_ROUNDS=50
	CONTROL_ROUNDS=$(or $(CONTROL_ROUNDS),50) OUTAGE_SECONDS=30 $(BIN)/pytest -n $(TEST_WORKERS) --dist loadgroup \
	  tests/faults/test_control_dies.py tests/faults/test_postgres_outage.py

bench-log: $(STAMP) ## the prediction log beside what writes the same rows; BENCH_REPEATS=5, BENCH_LOG_ROWS=600000
	@$(BIN)/python -m tests.bench.log

demo: $(STAMP) ## two recommenders on MovieLens-100k, served live; until Ctrl-C, or DEMO_SECONDS=20
	@$(BIN)/python -m deploy.demo $(if $(DEMO_SECONDS),--seconds $(DEMO_SECONDS))

screenshot: $(STAMP) ## docs/images/dashboard.png anew, of the live page before seven minutes of the demo
	@$(BIN)/python -m tests.monitoring.browser
	@$(BIN)/python -m tests.monitoring.screenshot docs/images/dashboard.png

bench: $(STAMP) ## the request path beside its peers; BENCH_REPEATS=5, BENCH_ONLY=NAME,…
	@$(BIN)/python -m tests.bench.request_path

bench-memory: $(STAMP) ## a worker's memory over two million requests
	@$(BIN)/python -m tests.bench.memory

bench-startup: $(STAMP) ## from a worker's start to its first response
	@$(BIN)/python -m tests.bench.startup

bench-registry: $(STAMP) ## a worker beside 1,000 models of 10 versions each
	@$(BIN)/python -m tests.bench.registry_scale

bench-scrape: $(STAMP) ## what a scrape of /metrics costs a worker with 100 models
	@$(BIN)/python -m tests.bench.scrape

bench-rollback: $(STAMP) ## from an operator's call to the last answer by the old version; BENCH_ROUNDS=200
	@$(BIN)/python -m tests.bench.rollback

bench-backends: $(STAMP) ## beside direct clients of real model servers; BENCH_REPEATS=5, BENCH_ONLY=NAME,…
	@$(BIN)/python -m tests.bench.backends

bench-tracing: $(STAMP) ## what tracing costs the request path, off and on; BENCH_REPEATS=100
	@$(BIN)/python -m tests.bench.tracing

clean:
	rm -rf build dist data
