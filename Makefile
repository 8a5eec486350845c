# Every target installs what it needs, below .venv and build/, and downloads to the user's cache folder. One exception:
# test-containers, run as root where no container engine runs, installs Debian's.
# The first Python of this list that is installed; set PYTHON to name another.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do $$p -c "import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))" 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_SECONDS ?=
# Processes of pytest. Two, which the services of a test leave room for on two cores; `make test` starts four, because
# most of its tests wait for sessions, polls and timeouts.
TEST_WORKERS ?=
# What `make test` runs, and further options of pytest: make test TESTS=tests/faults PYTEST_ARGS=-x
TESTS ?= tests
PYTEST_ARGS ?=
# What runs on containers too, in addition to the tests of the containers themselves.
CONTAINER_TESTS ?= tests/integration
PYTEST = $(BIN)/pytest -n $(or $(TEST_WORKERS),2) --dist loadgroup $(PYTEST_ARGS)

.PHONY: help setup lock docs client hooks clean check format test test-unit coverage test-servers test-models test-clients \
  test-monitoring \
  test-containers faults-control fuzz demo screenshot bench bench-backends bench-backlog bench-log bench-memory \
  bench-overload bench-registry bench-rollback bench-scrape bench-startup bench-tracing

# `##@` begins a group, `##` after a target describes it.
help: ## list every target by purpose
	@awk -F':.*## ' '/^##@ / { printf "\n%s\n", substr($$0, 5) } /^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' Makefile

##@ Set up

setup: $(STAMP) ## make .venv with the pinned dependencies

$(STAMP): constraints.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "headrace: no Python from 3.11 to 3.13 found; install one, or set PYTHON to it" >&2; exit 1; }
	@echo "== virtual environment in $(VENV)"
	$(PYTHON) -m venv $(VENV)
	@echo "== pinned dependencies"
	$(BIN)/python -m pip install --quiet --require-hashes -r constraints.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

hooks: $(STAMP) ## run the checks before each commit (git hooks of .pre-commit-config.yaml)
	$(BIN)/pre-commit install

lock: $(STAMP) ## pin the dependencies of pyproject.toml anew, in constraints.txt
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header \
	  --python-version 3.11 pyproject.toml --extra local --extra otel --group dev -o constraints.txt

clean: ## delete build/, dist/ and the data of local stacks
	rm -rf build dist data

##@ Change

check: $(STAMP) ## format, lint, spelling, types, import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## format the code, and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(STAMP) ## write docs/schemas, docs/asyncapi.json and the generated parts of pages anew from the code
	$(BIN)/headrace schemas --out docs
	$(BIN)/python -m tests.support.generated_sections

client: $(STAMP) ## the wheel of headrace-client, for the environments of applications, in dist/
	cd streams/headrace_client && $(CURDIR)/$(BIN)/hatchling build -t wheel -d $(CURDIR)/dist

##@ Test

test: $(STAMP) ## the tests that need at most Kafka, PostgreSQL and Redis, which it starts; TESTS=, PYTEST_ARGS=
	$(BIN)/pytest -n $(or $(TEST_WORKERS),4) --dist loadgroup $(PYTEST_ARGS) $(TESTS)

test-unit: $(STAMP) ## the tests that need no services
	$(PYTEST) tests/unit

coverage: $(STAMP) ## unit and contract tests with coverage, which must not fall below the floor in pyproject.toml
	$(PYTEST) --cov --cov-report=term:skip-covered tests/unit tests/contract

test-servers: $(STAMP) ## every backend on real model servers, each in an environment of its own below build/
	@$(BIN)/python -m tests.servers.environments
	$(PYTEST) tests/servers

test-models: $(STAMP) ## models of other libraries as their converters export them (docs/models.md), made below build/
	@$(BIN)/python -m tests.models.exporting
	$(PYTEST) tests/models

test-clients: $(STAMP) ## the client's wheel beside an application with packages of the same names; kcat and kafkajs
	@$(BIN)/python -m tests.clients.environments
	$(PYTEST) tests/clients

test-monitoring: $(STAMP) ## a real Prometheus, Alertmanager and Chromium: rules, dashboard queries, live page
	@$(BIN)/python -m tests.monitoring.binaries
	@$(BIN)/python -m tests.monitoring.browser
	$(PYTEST) tests/monitoring

test-containers: $(STAMP) ## integration tests on containers, the image, the composed system; CONTAINER_TESTS=, OFFICIAL_IMAGES=1
	$(BIN)/python -m tests.containers.images $(PYTEST) --stack=containers $(CONTAINER_TESTS)
	$(BIN)/python -m tests.containers.images $(BIN)/pytest tests/containers

faults-control: $(STAMP) ## kill the control worker at every step, and stop PostgreSQL for long; CONTROL_ROUNDS=50
	CONTROL_ROUNDS=$(or $(CONTROL_ROUNDS),50) OUTAGE_SECONDS=30 $(PYTEST) \
	  tests/faults/test_control_dies.py tests/faults/test_postgres_outage.py

fuzz: $(STAMP) ## any record on every topic, with kills, for FUZZ_SECONDS=600; it prints what it has tried
	FUZZ_SECONDS=$(or $(FUZZ_SECONDS),600) $(BIN)/pytest $(PYTEST_ARGS) tests/faults/test_any_record.py -k fuzz

##@ Show

demo: $(STAMP) ## two recommenders on MovieLens-100k, served live until Ctrl-C, or for DEMO_SECONDS=20
	@$(BIN)/python -m deploy.demo $(if $(DEMO_SECONDS),--seconds $(DEMO_SECONDS))

screenshot: $(STAMP) ## docs/images/dashboard.png: the live page over seven minutes of the demo
	@$(BIN)/python -m tests.monitoring.browser
	@$(BIN)/python -m tests.monitoring.screenshot docs/images/dashboard.png

##@ Measure (results also in build/bench; see tests/bench/README.md)

bench: $(STAMP) ## the request path compared with its peers; BENCH_REPEATS=5, BENCH_ONLY=NAME,…
	@$(BIN)/python -m tests.bench.request_path

bench-backends: $(STAMP) ## real model servers, compared with direct clients; BENCH_REPEATS=5, BENCH_ONLY=NAME,…
	@$(BIN)/python -m tests.bench.backends

bench-backlog: $(STAMP) ## a backlog before slow models, compared with the best fixed batch; BACKLOG_SECONDS=20
	@$(BIN)/python -m tests.bench.backlog

bench-log: $(STAMP) ## the prediction log compared with plain writers of the same rows; BENCH_REPEATS=5, BENCH_LOG_ROWS=600000
	@$(BIN)/python -m tests.bench.log

bench-memory: $(STAMP) ## the memory of a worker over two million requests
	@$(BIN)/python -m tests.bench.memory

bench-overload: $(STAMP) ## three times as many requests as a version answers, and a slow version; OVERLOAD_SECONDS=60, BENCH_REPEATS=3
	@$(BIN)/python -m tests.bench.overload

bench-registry: $(STAMP) ## a worker with a registry of 1,000 models of 10 versions each
	@$(BIN)/python -m tests.bench.registry_scale

bench-rollback: $(STAMP) ## from the call of an operator to the last response by the old version; BENCH_ROUNDS=200
	@$(BIN)/python -m tests.bench.rollback

bench-scrape: $(STAMP) ## the cost of a scrape of /metrics, for a worker with 100 models
	@$(BIN)/python -m tests.bench.scrape

bench-startup: $(STAMP) ## from the start of a worker to its first response
	@$(BIN)/python -m tests.bench.startup

bench-tracing: $(STAMP) ## the cost of tracing on the request path, off and on; BENCH_REPEATS=100
	@$(BIN)/python -m tests.bench.tracing
