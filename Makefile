# One target each: demo, test, test-slow, clients, soak, accuracy, intervals, screenshots, gpu, lint, licences, audit, format, clean. Needs Python 3.11 or newer and make; nothing else.

PYTHON ?= python3
VENV ?= .venv
SERVE ?= 1
DEMO ?= demo
PORT ?= 8000
UI_PORT ?= 5000
ACCURACY ?= --horizons 24 48 96
KILLS ?= 500
SEEDS ?= 10
REQUESTS ?= 100000
MUTATIONS ?= 5000
LICENCES = MIT;BSD;Apache;ISC;MPL;Mozilla Public License;PSF;Python Software Foundation
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

CLIENTS = $(patsubst tests/api/clients/%.txt,.venv-clients/%/installed,$(wildcard tests/api/clients/*.txt))

.PHONY: demo test test-slow clients soak accuracy intervals screenshots gpu lint licences audit format install browser clean

demo: $(VENV)/.runtime
	@$(BIN)/forecast demo $(DEMO) --port $(PORT) --ui-port $(UI_PORT) $(if $(filter 0,$(SERVE)),--no-serve,--serve)

PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder

test: $(VENV)/.development browser clients
	$(PYTEST) -m "not slow"

# The tests that take more than five seconds each: whole nights, killed processes, whole documents, browsers.
test-slow: $(VENV)/.development browser clients
	$(PYTEST) -m slow

# Clients of other services, each in an environment of its own: they need other versions of packages than the service.
clients: $(CLIENTS)

.venv-clients/%/installed: tests/api/clients/%.txt
	@echo "installing the client $* into .venv-clients/$*"
	@$(PYTHON) -m venv --clear .venv-clients/$*
	@.venv-clients/$*/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@cp $< $@

# The long form of tests/reliability, tests/api/test_fuzz.py and tests/forecast/runtime/test_hostile_models.py: kills, takeovers, simulated
# years, fuzzed requests, hostile model folders. Hours.
soak: $(VENV)/.development
	$(BIN)/python -m benchmarks.reliability takeovers --times 20
	$(BIN)/python -m benchmarks.reliability silences --times 20
	$(BIN)/python -m benchmarks.reliability workers --kills $(KILLS)
	$(BIN)/python -m benchmarks.reliability everything --kills $(KILLS)
	$(BIN)/python -m benchmarks.reliability trainings
	$(BIN)/python -m benchmarks.reliability year --seeds $(SEEDS)
	$(BIN)/python -m benchmarks.fuzz --requests $(REQUESTS)
	$(BIN)/python -m benchmarks.hostile --mutations $(MUTATIONS)

# Trains what has no row yet in benchmarks/accuracy/results; may be stopped at any time. Hours on a few cores.
accuracy: $(VENV)/.development
	$(BIN)/python -m benchmarks.accuracy.run $(ACCURACY)
	$(BIN)/python -m benchmarks.accuracy.report

# Coverage and loss of bands before and after calibration, on rows used for nothing else.
intervals: $(VENV)/.development
	$(BIN)/python -m benchmarks.intervals

# The dashboard's and MLflow's pages as docs/images has them, of a home that is made for it the first time (two nights: some minutes).
screenshots: $(VENV)/.development
	$(BIN)/python -m benchmarks.screenshots.take

# Fails unless Informer and S-Mamba were trained by the Triton kernels. Needs a GPU and a CUDA build of torch.
gpu: $(VENV)/.development
	$(BIN)/python -m benchmarks.gpu.night

lint: licences
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy forecast pipelines models api data
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --doctest-modules --ignore forecast/ledger/migrations/env.py forecast pipelines models kernels api

# Nothing that is installed may come under other terms. Those left out: MIT without saying so (axe-playwright-python, huey,
# skops), LGPL and only with the extra `postgresql` (psycopg).
licences: $(VENV)/.development
	@$(BIN)/pip-licenses --from=mixed --summary --partial-match --allow-only="$(LICENCES)" \
	  --ignore-packages axe-playwright-python huey skops psycopg psycopg-binary >/dev/null

# Known vulnerabilities of the pinned packages, as PyPI tells them. Needs pypi.org itself: mirrors do not have them.
audit:
	@test -x .venv-audit/bin/pip-audit || { $(PYTHON) -m venv .venv-audit && .venv-audit/bin/python -m pip install --quiet pip-audit; }
	@.venv-audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

format: $(VENV)/.development
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install: $(VENV)/.runtime

# torch first and pinned: a range would take a newer build with gigabytes of CUDA beside it.
$(VENV)/.runtime: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name another one with make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing pinned packages into $(VENV) (some minutes the first time)"
	@$(PIP) torch
	@$(PIP) --editable .
	@touch $@

# The dashboard's tests drive the system's Chromium, and are skipped where there is none.
browser:
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do \
	  if command -v $$name >/dev/null; then exit 0; fi; done; \
	if command -v apt-get >/dev/null && test "$$(id -u)" = 0; then \
	  apt-get update --quiet=2 && apt-get install --yes --quiet=2 chromium >/dev/null; \
	else echo "no Chromium here: the dashboard's tests in a browser will be skipped"; fi

$(VENV)/.development: $(VENV)/.runtime
	@$(PIP) --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .venv-clients .venv-audit $(DEMO) screenshots-home build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
