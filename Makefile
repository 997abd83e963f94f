# Virtual environments, each made when first needed and again when pyproject.toml or constraints.txt change:
# .venv holds what sensor and server need (about 0.5 GB, no torch), .venv-dev everything (about 6 GB, torch with CUDA:
# the registry's only build).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
export ORT_DISABLE_TELEMETRY := 1 # ONNX Runtime reports usage to its makers unless told not to
.DEFAULT_GOAL := help
.PHONY: help demo test check e2e bench bench-link soak proto golden

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3,$(shell command -v $(name))))
REQUIREMENTS := pyproject.toml constraints.txt
RUN := .venv/bin
DEV := .venv-dev/bin
DEMO ?=
PYTEST ?=

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/.done ## a server and a sensor as two processes, the knob turned in mid-stream (DEMO="--data cifar10")
	$(RUN)/latentwire demo $(DEMO)

test: .venv-dev/.done ## unit, golden, integration and architecture tests (PYTEST="-k codec")
	$(DEV)/pytest -m "not docker and not link and not ray" $(PYTEST)

check: .venv-dev/.done ## ruff, mypy --strict, the layers, the generated stubs
	$(DEV)/ruff check .
	$(DEV)/ruff format --check .
	$(DEV)/mypy
	$(DEV)/lint-imports
	$(DEV)/python tools/stubs.py check

e2e: .venv-dev/.done .venv-ray/.done ## the containers, brought up by a real engine; a thin link (root); the pool of decoders on Ray
	$(DEV)/pytest -m link tests/e2e $(PYTEST)
	.venv-ray/bin/pytest -m ray tests/e2e/test_ray_backend.py $(PYTEST)
	@docker info >/dev/null 2>&1 || { echo "no container engine answers 'docker info'" >&2; exit 1; }
	$(DEV)/pytest -m docker -x tests/e2e $(PYTEST)

bench: .venv/.done ## the ladder, and the code's accuracy, bits and speed (of cifar10 too if LATENTWIRE_DATA is set)
	$(RUN)/python -m benchmarks.ladder
	$(RUN)/latentwire bench codec $(if $(LATENTWIRE_DATA),,--bundle digits)
	$(RUN)/python -m benchmarks.server_cost $(if $(LATENTWIRE_DATA),,--bundle digits)
	$(RUN)/python -m benchmarks.stream_anchors $(if $(LATENTWIRE_DATA),,--bundle digits)

bench-link: .venv-dev/.done ## ten minutes of rate control on a link of 64 to 2 kbit/s (root, iproute2, LATENTWIRE_DATA)
	$(DEV)/python -m benchmarks.link --json docs/results/link.json --picture docs/results/link.png

soak: .venv-dev/.done ## a million images with both processes' memory watched, then 200 random faults (25 minutes)
	$(DEV)/python -m benchmarks.soak --json docs/results/soak.json
	$(DEV)/python -m benchmarks.faults --faults 200 --json docs/results/faults.json

proto: .venv-dev/.done ## generate latentwire/v1 from proto/
	$(DEV)/python tools/stubs.py write

golden: .venv-dev/.done ## write the golden vectors anew; only on purpose, with a new format version
	$(DEV)/python -m tests.golden.make

# Asked for by path, so that a make that was stopped half-way starts again.
.venv/.done: $(REQUIREMENTS)
	$(call install,.venv,sensor$(comma)server$(comma)bench)

.venv-dev/.done: $(REQUIREMENTS)
	$(call install,.venv-dev,sensor$(comma)server$(comma)tracing$(comma)training$(comma)dev)

# What the server's pool of decoders needs beside the server: Ray brings much that nothing else here wants.
.venv-ray/.done: $(REQUIREMENTS)
	$(call install,.venv-ray,sensor$(comma)server$(comma)ray$(comma)dev)

comma := ,
define install
	@[[ -n "$(PYTHON)" ]] || { echo "no Python found: install Python 3.11 or 3.12, or give PYTHON=/path/to/python" >&2; exit 1; }
	@echo "installing latentwire[$(2)] into $(1) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(1)
	@$(1)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(2)]'
	@touch $@
endef
