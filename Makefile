# `make forecast` and `make test` are the two commands that matter. Both build .venv from requirements.lock first, once.
PYTHON ?= python3
SHELL := /bin/bash
BIN := .venv/bin

# numerics in one thread, so that tests run side by side, and a busy machine does not wait for itself (two threads were 7 times
# slower there for the forecast); the environment's own kernel, whatever kernels the user has installed
forecast test check gate: export OMP_NUM_THREADS = 1
export JUPYTER_PREFER_ENV_PATH = 1
unexport JUPYTER_PATH PYTHONPATH

.PHONY: help environment forecast test check gate lab lock clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

environment: .venv/.installed  ## .venv with every package of requirements.lock, and this package in editable form

# The stamps are written last, so an interrupted installation starts again from nothing.
.venv/.packages: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "microclimate needs Python 3.11 or newer, and '$(PYTHON)' is not: name one with 'make PYTHON=/path/to/python3.11 ...'"; exit 1; }
	@echo "building .venv from requirements.lock: one to four minutes, once"
	@rm -rf .venv
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@touch $@

.venv/.installed: .venv/.packages settings.ini setup.py pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -c 'from microclimate.workbook import set_up; set_up()'
	@touch $@

forecast: .venv/.installed  ## the main job: the Norway forecast, into outputs/run_forecast/
	@mkdir -p outputs/run_forecast
	$(BIN)/papermill nbs/run_forecast.ipynb outputs/run_forecast/run_forecast.ipynb

test: .venv/.installed check gate  ## every check: ruff, export gate, nbdev_test, pytest
	$(BIN)/nbdev_test --timing
	$(BIN)/python -m pytest -n 2 --dist loadfile --ignore tests/test_resume.py
	$(BIN)/python -m pytest tests/test_resume.py  # by itself: it kills a training at moments that a busy machine misses

check: .venv/.installed  ## ruff
	$(BIN)/ruff check .

gate: .venv/.installed  ## nbdev_export and nbdev_clean must change nothing
	@.ci/gate $(BIN)

lab: .venv/.installed  ## JupyterLab on the notebooks
	$(BIN)/jupyter lab nbs

lock:  ## resolve settings.ini anew, with every extra and the torch of the present lock, into requirements.lock
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet "$$(grep '^torch==' requirements.lock)" -e '.[all]'
	{ echo '# Every package with the version that was tested. `make lock` writes this file; torch is named there by hand.'; \
	  .venv-lock/bin/python -m pip freeze --all --exclude-editable --exclude pip | sed 's/+cpu$$//'; } > requirements.lock.part
	mv requirements.lock.part requirements.lock
	rm -rf .venv-lock

clean:  ## removes the environment and what runs have written
	rm -rf .venv .venv-lock build *.egg-info .pytest_cache .ruff_cache
	find outputs -mindepth 1 ! -name .gitkeep -delete
