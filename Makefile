# make setup | demo | test | lint | bench-setup. Everything lives in .venv and .venv-bench; nothing else on the machine is touched.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check --no-input
SOURCES := setup.py setup.cfg pyproject.toml package.xml $(shell find rl_ros config launch urdf sim resource policies -type f -not -name '*.pyc')

.PHONY: setup bench-setup demo test lint parity clean

setup: .venv/installed

.venv/requirements: requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "rl_ros needs Python 3.11 (the ROS 2 wheels are built for it): make PYTHON=python3.11 setup")'
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet -r requirements.lock
	touch $@

.venv/installed: .venv/requirements $(SOURCES)
	$(PIP) install --quiet --no-deps --no-build-isolation --force-reinstall .
	touch $@

# The libraries that benchmarks compare with. torch comes first, so that nothing brings another.
bench-setup: .venv-bench/installed

.venv-bench/installed: benchmarks/requirements.lock
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip --disable-pip-version-check --no-input install --quiet $$(grep '^torch==' $<)
	.venv-bench/bin/pip --disable-pip-version-check --no-input install --quiet -r $<
	touch $@

demo: setup
	$(BIN)/rl_ros demo

test: setup lint
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

parity: setup
	$(BIN)/python benchmarks/parity.py

clean:
	rm -rf .venv .venv-bench build *.egg-info
