# Everything runs in .venv, which is made when missing and made anew when the lock file changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements.lock
UV_VERSION := 0.13.8
MODELS := build/models
ARGS ?=

EXPORTED := $(patsubst models/%/config.yaml,$(MODELS)/%/.exported,$(wildcard models/*/config.yaml))
EXPORTER := $(shell find model_export -name '*.py' -not -path 'model_export/training/*')

.PHONY: help serve models test test-containers check fix proto lock clean
.DELETE_ON_ERROR:

help:
	@echo 'make serve   export the shipped models where needed and serve them on http://127.0.0.1:8000 (ARGS="--port 8080 --grpc-port 9080")'
	@echo 'make test    the whole suite (ARGS="-k beam")'
	@echo 'make test-containers   build the images and run docker-compose.yml, where there is a Docker engine'
	@echo 'make check   format, lint, types, architecture'
	@echo 'make fix     format and fix what the linter can'
	@echo 'make proto   generate the code of the .proto files anew'
	@echo 'make lock    resolve $(LOCK) anew'

$(VENV)/.installed: $(LOCK)
	$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14) and "Malgil needs Python 3.10 to 3.13: make PYTHON=python3.11")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement $(LOCK)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

$(MODELS)/%/.exported: models/%/config.yaml models/%/weights.safetensors models/%/tokenizer.model $(EXPORTER) | $(VENV)/.installed
	$(BIN)/malgil-export export models/$* --name $* --to $(MODELS)
	touch $@

models: $(EXPORTED)

serve: $(VENV)/.installed models
	$(BIN)/malgil serve --models $(MODELS) $(ARGS)

test: $(VENV)/.installed
	$(BIN)/pytest --durations=15 $(ARGS)

# Says loudly that nothing was tested where there is no engine, which is no failure.
test-containers: $(VENV)/.installed
	@if docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1; then \
		TEST_CONTAINERS=1 $(BIN)/pytest tests/containers -v --durations=15 --session-timeout=600 $(ARGS); \
	else \
		printf '\n*** CONTAINERS WERE NOT TESTED: no Docker engine with compose answers here. ***\n\n' >&2; \
	fi

check: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: $(VENV)/.installed
	$(BIN)/python -m grpc_tools.protoc --proto_path=. --python_out=. --pyi_out=. $(shell find service -name '*.proto')

lock: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip compile pyproject.toml --extra dev --group lock --universal --python-version 3.10 \
		--generate-hashes --no-annotate --no-emit-index-url --custom-compile-command 'make lock' \
		--output-file $(LOCK) --quiet

clean:
	rm -rf $(VENV) build
