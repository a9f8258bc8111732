# make demo: set up what is missing and run the demo.   make examples: energies minimised, with pictures in out/flows.   make test: set up and run every test, Python and Elixir.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
export LC_ALL ?= C.UTF-8
PY := .venv/bin/python
FLOWS := deblur denoise inpaint poisson tomography lasso_path group_logistic ecg_trend covariance digits

.PHONY: setup demo examples test chaos soak soak-codec fuzz lint bench clean proto

setup:
	@.ci/setup

demo: setup
	@mix run examples/demo.exs

# Each program prints its figures and leaves a picture in out/flows: docs/flow/examples.md. EXAMPLES=name runs one.
examples: export JAX_PLATFORMS ?= cpu
examples: setup
	@for name in $${EXAMPLES:-$(FLOWS)}; do echo "== $$name"; $(PY) examples/flows/$$name.py || exit 1; done

test: setup
	@.ci/test

# Calls while everything around them fails, and a judgement of every answer: docs/chaos.md. CHAOS_SEED, CHAOS_SECONDS, CHAOS_KEEP=directory.
chaos: setup
	MIX_ENV=test mix compile
	PYTHONPATH=tests/snakepit:tests/gateway $(PY) tests/chaos/run.py --through $${CHAOS_THROUGH:-pool} --seconds $${CHAOS_SECONDS:-180} $${CHAOS_SEED:+--seed $$CHAOS_SEED} $${CHAOS_KEEP:+--keep $$CHAOS_KEEP}

# The same for half an hour, with less haste: whether memory, files, threads, segments and the journal stay as they are. SOAK_SECONDS, CHAOS_SEED.
soak: setup
	MIX_ENV=test mix compile
	PYTHONPATH=tests/snakepit:tests/gateway $(PY) tests/chaos/soak.py --seconds $${SOAK_SECONDS:-1800} $${CHAOS_SEED:+--seed $$CHAOS_SEED} --out out/soak

# A million values between the languages, half of them from each: CODEC_EXAMPLES says how many one side sends.
soak-codec: export CODEC_EXAMPLES ?= 500000
soak-codec: setup
	$(PY) -m pytest -s --timeout=0 tests/codec/test_across.py
	mix test elixir_client/test/codec/proper_test.exs

# Mutated messages for every decoder, FUZZ_SECONDS for each of the three; what is found stays in tests/fuzz/found.
fuzz: export FUZZ_SECONDS ?= 60
fuzz: setup
	$(PY) -c "import atheris" 2>/dev/null || $(PY) -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	$(PY) tests/fuzz/fuzz_packed.py
	$(PY) tests/fuzz/fuzz_tagged.py
	mix test elixir_client/test/codec/mutation_test.exs

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy -p bridge_adapter -p bench
	MYPYPATH=examples/generate/python $(PY) -m mypy -p smollm
	MYPYPATH=examples/flows $(PY) -m mypy examples/flows
	mix format --check-formatted
	mix compile --warnings-as-errors

bench: setup
	@$(PY) -m bench all

# Writes the generated half of bridge_adapter/proto anew; needed only after a change of the .proto file. The oldest grpcio-tools that we support,
# in an environment of its own: what newer ones generate refuses older versions of grpcio and protobuf.
proto: setup
	$(PY) -m venv _build/proto
	_build/proto/bin/pip install --quiet --disable-pip-version-check grpcio-tools==1.76.0
	cd bridge_adapter/proto && ../../_build/proto/bin/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. snakepit_bridge.proto
	sed -i 's/^import snakepit_bridge_pb2 as/from bridge_adapter.proto import snakepit_bridge_pb2 as/' bridge_adapter/proto/snakepit_bridge_pb2_grpc.py

clean:
	rm -rf .venv _build out bench/results dist build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis erl_crash.dump
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
