# Every target creates its environment by itself: only python3 (3.11 to 3.13, with venv) must be on PATH.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PYTEST := $(BIN)/python -m pytest
# Files are dealt out to this many processes; threads that wait for one another give up their core meanwhile. The log
# ends with where the time went.
WORKERS ?= 2
PARALLEL := --numprocesses $(WORKERS) --dist loadfile --durations 60 --durations-min 5
PACKAGES := pass_ops trainer pipelines

# Bytecode is kept, whatever the environment says of it: `make test` starts hundreds of processes, and each would compile
# torch, Beam and vLLM anew, for 10 s of a processor and more (containers often forbid it, and uv compiles nothing).
export PYTHONDONTWRITEBYTECODE :=

BEAM_VERSION := $(shell sed -n 's/^apache-beam==\([0-9.]*\).*/\1/p' requirements/cpu.txt)
SLOTS ?= 2

.PHONY: install demo study study-smoke study-full test test-deep test-peers mutants test-cluster chaos faults flink flink-up flink-down prism check docs reference screenshots bench bench-% wheel requirements clean

install: $(STAMP)

# The stamp is written last: an interrupted installation is begun again, a finished one is not repeated. On a machine with
# an NVIDIA GPU the GPU list is installed, after a look at the driver; LIST=cpu or LIST=gpu decides otherwise.
$(STAMP): pyproject.toml requirements/cpu.txt requirements/gpu.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else "passrl needs Python 3.11 to 3.13, $(PYTHON) is " + sys.version.split()[0] + ": set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^uv==' requirements/cpu.txt | cut -d' ' -f1)"
	@list=$$($(BIN)/python deploy/choose_list.py $(LIST)) && $(BIN)/uv pip sync --quiet --python $(BIN)/python "$$list"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

demo: install
	$(BIN)/passrl demo --out runs/demo

# The paper's claims at small scale (docs/study/): every arm once and short; tuning and as many paired seeds as fit into
# four hours on two cores; all seeds and arms, over days. Finished cells stay: the same command goes on where it was cut
# off. One cell again: .venv/bin/python -m benchmarks.study cell NAME --again
study-smoke: install
	$(BIN)/python -m benchmarks.study run --size smoke --results runs/study/smoke --rollouts runs/study/smoke-rollouts

study: install
	$(BIN)/python -m benchmarks.study run

study-full: install
	$(BIN)/python -m benchmarks.study run --size full

test: install
	OMP_WAIT_POLICY=passive $(PYTEST) -q tests $(PARALLEL)

test-deep: install
	$(PYTEST) -q tests -m deep --timeout 7200

# Steps of TRL, verl and SkyRL with the plug-ins of passrl_integrations, and OpenRLHF's patch, in an environment of their
# own (pinned in requirements/peers.txt), which is made once; PEERS=test_trl.py runs one of them.
test-peers: .cache/peers/.installed
	.cache/peers/bin/python -m pytest -q --confcutdir tests/peers tests/peers/$(PEERS)

.cache/peers/.installed: requirements/peers.txt requirements/peers-alone.txt tests/peers/make_environment.py | install
	$(BIN)/python tests/peers/make_environment.py .cache/peers
	@touch $@

test-cluster: install
	$(PYTEST) -q tests -m cluster --timeout 1800

# Kills, twins, damaged files, full disks, forgeries and hostile names: 25 minutes. Writes the page with the results;
# CHAOS=--help says what can be asked for. With CHAOS="--journal FILE" it goes on where it was cut off.
chaos: install
	$(BIN)/python -m tests.chaos.run --report docs/explanation/measured/chaos.md $(CHAOS)
	$(BIN)/python -m tests.chaos.nodes --report docs/explanation/measured/node-kills.md

# Fifty SIGKILLs on running Flink jobs; at most an hour. Writes the page with the results.
faults: install flink
	$(BIN)/python -m tests.cluster.faults --report docs/explanation/measured/faults.md

# The jars of a Flink cluster on this machine (Java 17, Maven), and the cluster itself: docs/how-to/flink.md.
flink: .cache/flink/jars/.fetched

.cache/flink/jars/.fetched: deploy/flink/pom.xml
	mvn -q -B -f deploy/flink/pom.xml dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/.cache/flink/jars
	@touch $@

flink-up: install flink
	$(BIN)/python deploy/flink/cluster.py up --slots $(SLOTS)

flink-down: install
	$(BIN)/python deploy/flink/cluster.py down

# Prism, Beam's local portable runner, at the SDK's version (Go).
prism: .cache/prism/v$(BEAM_VERSION)

.cache/prism/v$(BEAM_VERSION):
	GOBIN=$(CURDIR)/.cache/prism go install github.com/apache/beam/sdks/v2/go/cmd/prism@v$(BEAM_VERSION)
	@touch $@

# One small change at a time: does a test notice? docs/explanation/proof.md has the results. All of pass_ops; of the
# trainer and the stages a sample.
mutants: install
	nice $(BIN)/python tests/mutation/run.py
	nice $(BIN)/python tests/mutation/run.py trainer --each 6
	nice $(BIN)/python tests/mutation/run.py stages --each 6

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) -q --doctest-modules $(PACKAGES) passrl_integrations/steps.py passrl_integrations/carried.py --ignore pipelines/gpu_check/trl_update.py  # runs in an environment with TRL

# The documentation as an offline site in site/. A broken link or a page without a place is an error.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The pages made from the code; tests/docs fails where one is stale.
reference: install
	$(BIN)/python docs/generate.py

# Pictures of the viewer's page, of the file that the demo ends with: docs/explanation/viewers.md.
screenshots: install
	$(BIN)/python docs/screenshots.py $(SHOWN)

bench: install
	@for script in $(filter-out benchmarks/bench_before.py, $(wildcard benchmarks/bench_*.py)); do $(BIN)/python $$script || exit 1; done

bench-%: install
	@$(BIN)/python benchmarks/bench_$*.py

wheel: install
	$(BIN)/uv build --quiet --wheel --out-dir dist

# The pinned lists hold names and versions only, never a URL (tests/test_packaging.py).
requirements: install
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header pyproject.toml --extra cpu --extra dev -o requirements/cpu.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header pyproject.toml --extra gpu --extra adamw8bit --extra dev -o requirements/gpu.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header pyproject.toml --extra cpu --extra dev --extra gcp -o requirements/gcp.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header pyproject.toml --extra gpu --extra dev --extra gcp -o requirements/gpu-gcp.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header requirements/peers.in -o requirements/peers.txt

clean:
	rm -rf dist build runs site .cache
