# install, demo, test, lint and docs each make .venv first when it is missing or older than the lock.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# uv installs without bytecode: the first process writes it, or every process would compile all that it imports.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: install demo test lint docs lock clean
install: $(STAMP)

demo: $(STAMP)
	$(BIN)/python tools/demo.py

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Warnings are errors: a dead link or anchor, a module that does not import, a docstring that does not parse.
docs: $(STAMP)
	$(BIN)/python -m sphinx -q -E -W --keep-going -c docs -d output/docs/.doctrees . output/docs
	@echo "open output/docs/docs/index.html"

# uv fetches the locked files in parallel; pip, which also reads mirrors from pip.conf, takes over where uv cannot.
# The lock has all that is needed, hence --no-deps: lvis would add a second OpenCV.
# CPU=1 takes PyTorch's builds without CUDA, from PyTorch's own index: 2 GB on the disk instead of 5.
$(STAMP): requirements.lock requirements-uv.lock pyproject.toml
	@echo "Installing into $(VENV) from requirements.lock: one to three minutes the first time."
	python=$$(PYTHON="$(PYTHON)" tools/find_python.sh) && "$$python" -m venv $(VENV)
	$(BIN)/python -m pip install -q --require-hashes -r requirements-uv.lock
ifdef CPU
	awk '/^[a-z]/ {keep = !/^(torch|triton|nvidia-|cuda-)/} keep' requirements.lock > $(VENV)/requirements.lock
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --index-url https://download.pytorch.org/whl/cpu \
		$$(grep -Eo '^torch(vision)?==[0-9.]+' requirements.lock)
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --require-hashes -r $(VENV)/requirements.lock
else
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --require-hashes -r requirements.lock \
		|| $(BIN)/python -m pip install -q --no-deps --require-hashes -r requirements.lock \
		|| { echo "requirements.lock did not install (it is for Linux x86-64). By hand: docs/install.md" >&2; exit 2; }
endif
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation --editable .
	touch $@

# Resolves again from requirements.in and pyproject.toml; the only target that changes the locks.
lock: $(STAMP)
	$(BIN)/uv pip compile -q --upgrade --universal --fork-strategy fewest --python-version 3.10 --generate-hashes \
		--extra dev requirements.in pyproject.toml -o requirements.lock
	echo uv | $(BIN)/uv pip compile -q --upgrade --universal --generate-hashes --no-header - -o requirements-uv.lock

clean:
	rm -rf $(VENV)
