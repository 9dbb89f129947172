# `make forecast` and `make test` are the two commands that matter. Each builds first, once, what it needs of .venv:
# the packages of requirements.lock, and for tests and site those of requirements-dev.lock besides.
PYTHON ?= python3
SHELL := /bin/bash
BIN := .venv/bin
# modules are compiled when they are first imported, and most of a large package never is
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile

# numerics in one thread, so that tests run side by side, and a busy machine does not wait for itself (two threads were 7 times
# slower there for the forecast); the environment's own kernel, whatever kernels the user has installed
forecast test check gate docs: export OMP_NUM_THREADS = 1
export JUPYTER_PREFER_ENV_PATH = 1
unexport JUPYTER_PATH PYTHONPATH PYTHONDONTWRITEBYTECODE

.PHONY: help environment test-environment forecast test check gate lab docs lock clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 18

environment: .venv/.installed  ## .venv with what forecasts, trainings and notebooks need

test-environment: .venv/.dev  ## and what tests and the site need besides

# The stamps are written last, so an interrupted installation starts again from nothing.
.venv/.packages: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "microclimate needs Python 3.11 or newer, and '$(PYTHON)' is not: name one with 'make PYTHON=/path/to/python3.11 ...'"; exit 1; }
	@echo "building .venv from requirements.lock: one or two minutes, once"
	@rm -rf .venv
	@$(PYTHON) -m venv .venv
	@$(INSTALL) -r requirements.lock
	@touch $@

.venv/.installed: .venv/.packages settings.ini setup.py pyproject.toml
	@$(INSTALL) --no-deps --no-build-isolation -e .
	@$(BIN)/python -c 'from microclimate.workbook import set_up; set_up()'
	@$(BIN)/python -c 'import microclimate.training.lightning'  # compiled here, and not when somebody waits
	@touch $@

# nbdev's commands under the names that its documentation has had longest
.venv/.dev: .venv/.installed requirements-dev.lock
	@echo "adding requirements-dev.lock: one or two minutes, once"
	@$(INSTALL) -r requirements-dev.lock
	@for tool in export test clean; do ln -sf nbdev-$$tool $(BIN)/nbdev_$$tool; done
	@touch $@

forecast: .venv/.installed  ## the main job: the Norway forecast, into outputs/run_forecast/
	@mkdir -p outputs/run_forecast
	$(BIN)/papermill nbs/run_forecast.ipynb outputs/run_forecast/run_forecast.ipynb

test: .venv/.dev check gate  ## every check: ruff, export gate, nbdev_test, pytest
	$(BIN)/nbdev_test --timing
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations 25 --ignore tests/test_resume.py
	$(BIN)/python -m pytest tests/test_resume.py  # by itself: it kills a training at moments that a busy machine misses

check: .venv/.dev  ## ruff
	$(BIN)/ruff check .

gate: .venv/.dev  ## nbdev_export and nbdev_clean must change nothing
	@.ci/gate $(BIN)

lab: .venv/.installed  ## JupyterLab, on the root of this workbook
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/README.md

docs: .venv/.dev  ## the site, every notebook executed, into build/docs/html/
	$(BIN)/python docs/pages.py build/docs
	$(BIN)/python -m sphinx -q -W --keep-going -j 2 build/docs/source build/docs/html
	@echo "the site: build/docs/html/index.html"

lock: .venv/.installed  ## resolve settings.ini anew into the two locks, with the torch of the present one
	$(BIN)/python .ci/lock

clean:  ## removes the environment and what runs have written
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache
	find outputs -mindepth 1 ! -name .gitkeep -delete
