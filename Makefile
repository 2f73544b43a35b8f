# One verb per task. `make test` and `make demo` set up what they need, the first time.

# The lock file's wheels are for Python 3.11, so that one is preferred where there are several.
PYTHON ?= $(shell python3.11 -c 'print("python3.11")' 2>/dev/null || echo python3)
PY     := .venv/bin/python
READY  := .venv/.ready
PROTOS := $(wildcard protos/expertmesh/v1/*.proto)
PROTOC := $(PY) -m grpc_tools.protoc -I protos -I third_party

export HF_HUB_OFFLINE := 1
export PYTHONUNBUFFERED := 1
unexport PYTHONPATH # the environment is .venv and nothing else
unexport PYTHONDONTWRITEBYTECODE # tests and benchmarks start hundreds of processes, and each would compile it all

.DEFAULT_GOAL := help
.PHONY: help setup model proto check style types stubs contract test demo bench characterise overhead fuzz chaos lock clean

help: ## say what each verb does
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s  %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(READY) ## make .venv from requirements/cpu.lock; a second time takes no time

model: setup ## prepare the base model, from an installed package, and its int8 twin
	@$(PY) models/prepare.py
	@$(PY) models/quantise.py

proto: setup ## make the Python stubs from the protos again
	@$(call generate,protos)

check: style types stubs contract ## style, types, stubs, contract

style: setup
	.venv/bin/ruff check
	.venv/bin/ruff format --check

types: setup
	.venv/bin/mypy

stubs: setup
	@made=$$(mktemp -d) && trap 'rm -rf "$$made"' EXIT && $(call generate,"$$made") && \
	diff -rq -x '*.proto' -x __init__.py -x py.typed -x __pycache__ "$$made/expertmesh" protos/expertmesh \
	&& echo 'stubs: as the protos make them' || { echo 'stubs: not as the protos make them; run: make proto'; exit 1; }

contract: setup
	.venv/bin/buf lint
	@.ci/breaking .venv/bin/buf

# Two processes, since starting vLLM keeps one core busy and most other tests wait for something; a file stays in one.
test: setup model ## the whole suite
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

demo: setup model ## start a mesh with real engines, ask it real questions, stop it
	@$(PY) -m expertmesh_client.demo --config mesh.yaml

bench: setup model ## measure the data plane against its peers, in under ten minutes
	@$(PY) -m benchmarks.run $(BENCH_ARGS)

characterise: setup model ## measure configurations of experts under up to 1,000 users, and judge the paper by them
	@$(PY) -m benchmarks.characterise $(CHARACTERISE_ARGS)

overhead: setup ## fail where a hop costs more than the recorded baseline; PLANT=router shows that it would
	@$(PY) -m benchmarks.overhead $(if $(PLANT),--plant $(PLANT)) $(OVERHEAD_ARGS)

fuzz: setup ## half a million hostile messages to a real router and expert; CASES=n SEED=n
	HOSTILE_CASES=$${CASES:-500000} HOSTILE_SEED=$${SEED:-$$(od -An -N3 -tu4 /dev/urandom | tr -d ' ')} \
	$(PY) -m pytest tests/wire/test_hostile_messages.py -k mutated --timeout=0

chaos: setup ## break a mesh in network namespaces for ten minutes, check every answer; MINUTES=n SEED=n
	@$(PY) -m benchmarks.chaos --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED)) $(CHAOS_ARGS) || \
	{ code=$$?; [ $$code = 3 ] || exit $$code; } # 3: not on this machine, which it has said

lock: setup ## resolve requirements/cpu.lock again, to today's versions
	@$(PY) requirements/make_lock.py requirements/cpu.lock

clean: ## remove all that these verbs made: environment, base model, caches
	rm -rf .venv models/base build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stubs into the folder $(1); `_pb2_grpc` only for files that have services.
generate = $(PROTOC) --python_out=$(1) --pyi_out=$(1) $(PROTOS) && \
	$(PROTOC) --grpc_python_out=$(1) $$(grep -l '^service ' $(PROTOS))

$(READY): requirements/cpu.lock requirements/install.py pyproject.toml
	@$(PYTHON) requirements/install.py .venv
	@touch $@
