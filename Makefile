# Everything runs in .venv, which is set up by the first target that needs it. ARGS adds options to the tool that runs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CYTHON_DIR := kernels/softmax_ce/_backends/cython
CEILINGS_DIR := bench/softmax_ce_bench/ceilings
BUILD_ERRORS := $(addsuffix /build_error.txt,$(CYTHON_DIR) $(CEILINGS_DIR))
SOURCES := setup.py $(wildcard $(foreach dir,$(CYTHON_DIR) $(CEILINGS_DIR),$(addprefix $(dir)/,*.pyx *.pxd *.pxi *.c *.h)))
# Modules are compiled when they are imported: pip would compile every file of SciPy and Numba, which takes longer than unpacking.
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --no-compile
# Some targets need an extra of pyproject.toml, beside the commands and the build. It is installed on first use.
TESTS := $(VENV)/.with-test
LINTERS := $(VENV)/.with-lint
HISTORY := $(VENV)/.with-history
MUTANTS := $(VENV)/.with-mutants
WHEELS := $(VENV)/.with-wheels
# Exists once Numba's cache holds the compiled kernels.
COMPILED := $(VENV)/.compiled
# Some containers set it. Each of the hundreds of processes that tests start would then compile the sources again.
unexport PYTHONDONTWRITEBYTECODE
# Run a command and show its output only if it fails.
quietly = said=$$( { $(1); } 2>&1 ) || { printf '%s\n' "$$said" >&2; exit 1; }

.DEFAULT_GOAL := help
.PHONY: help setup compare report pick docs test trust sanitize lint format bench asv-quick gate-credentials exp-error roofline peers replay aarch64 wheel clean retry asv asv-publish asv-preview history fuzz mutants

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo '  Options for the tool behind a target: make test ARGS="-k gradient". Another Python: make PYTHON=python3.13'

setup: $(STAMP) ## set up .venv and build; the other targets do this when needed

compare: $(STAMP) ## compare the backends on this machine
	@$(BIN)/softmax-ce compare $(ARGS)

# A grid of rows and classes, and the quick set. ARGS replaces these options.
report: ARGS = --set quick --shapes 64x10,64x100,64x1000,64x10000,1024x10,1024x100,1024x10000,4096x100,4096x1000 \
	--time-budget 2m --cold-start
report: $(STAMP) ## compare, and write build/report.html; takes about two minutes
	@mkdir -p build
	@$(BIN)/softmax-ce compare $(ARGS) --json build/report.json --html build/report.html

pick: $(STAMP) ## pick the backend for each shape, for production; takes two minutes
	@$(BIN)/softmax-ce pick $(ARGS)

# One process for each CPU. Each begins with a share of the tests, and takes over tests from the others when it is done.
PYTEST := $(BIN)/python -m pytest -n auto --dist worksteal --durations=10

test: $(TESTS) $(COMPILED) ## run all tests, including the examples in the documentation
	@$(PYTEST) $(ARGS)

# The tests of the integrations, some of which are a library's own, run on our losses. Here each library is installed.
INTEGRATIONS := tests/test_torch*.py tests/test_dask.py tests/test_boosting.py tests/test_xgboost.py tests/test_lightgbm.py tests/test_sklearn.py
LIBRARIES := torch dask distributed xgboost lightgbm scikit-learn ml_dtypes
trust: $(TESTS) $(VENV)/.with-integrations $(COMPILED) ## run the slow tests: other CPUs, huge arrays, every instruction set, other libraries' own tests
	@$(BIN)/python -c 'import sys, importlib.metadata as m; print(*(f"{name} {m.version(name)}" for name in sys.argv[1:]), sep=", ")' $(LIBRARIES)
	@$(PYTEST) -m slow $(ARGS)
	@$(PYTEST) $(INTEGRATIONS) $(ARGS)

docs: $(VENV)/.with-docs ## build the documentation site into build/docs
	@$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs build/docs $(ARGS)
	@echo "Open build/docs/index.html"

# SEED repeats a run. Failing cases are kept in .fuzz/ and tried first the next time.
fuzz: TIME = 5m
fuzz: $(TESTS) ## try random calls and damaged files for five minutes, or longer: make fuzz TIME=1h
	@PYTHONPATH=tests $(BIN)/python -m tools.fuzz --time $(TIME) $(if $(SEED),--seed $(SEED)) $(ARGS)

sanitize: $(TESTS) ## run the suite under gcc's sanitizers, with every index checked; takes half an hour
	@tools/sanitize.sh $(BIN)/python $(ARGS)

mutants: $(MUTANTS) ## run mutation tests; takes an hour or two. TIME=10m stops earlier, and the next run continues
	@$(BIN)/python -m tools.mutation $(if $(TIME),--time $(TIME)) $(ARGS)

lint: $(LINTERS) ## run ruff, cython-lint, mypy and pyright, and check workflows, issue forms and the citation
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint kernels bench
	@$(BIN)/mypy
	@$(BIN)/basedpyright --level error --pythonpath $(BIN)/python
	@$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml examples/ci/*.yml
	@$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/[!c]*.yml
	@$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	@$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff

format: $(LINTERS) ## format the code with ruff
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(TESTS) ## time the backends side by side with pytest-benchmark
	@$(BIN)/python -m pytest bench/test_speed.py --benchmark-enable --benchmark-only --benchmark-sort=min \
		--benchmark-columns=median,iqr,min,rounds $(ARGS)

# asv keeps its data about machines in the home directory, and pip keeps downloads there; here they get a folder of their own.
ASV_HOME := $(CURDIR)/.asv/home
ASV := XDG_CONFIG_HOME="$${XDG_CONFIG_HOME:-$$HOME/.config}" XDG_CACHE_HOME="$(ASV_HOME)/.cache" \
	XDG_DATA_HOME="$(ASV_HOME)/.local/share" HOME="$(ASV_HOME)" $(BIN)/asv
# The name under which results are stored: one for each machine, and the same in every run.
MACHINE ?= this-machine
# Commits, as git log takes them (a merge counts as one), or HASHFILE:PATH, or HASHFILE:- for a list on standard input.
RANGE ?= HEAD~4..HEAD

asv-quick: $(HISTORY) ## run every asv benchmark once on the working tree and keep nothing; takes a minute
	@$(BIN)/python -m tools.history.machine quick "$(ASV_HOME)"
	@$(ASV) run --quick --dry-run --show-stderr --machine quick --environment existing:$(BIN)/python $(ARGS)

# Commits that have results are skipped, so that an interrupted run continues where it stopped.
asv: $(HISTORY) ## measure commits: make asv RANGE=v0.1..HEAD; takes five to six minutes for each commit
	@$(BIN)/python -m tools.history.machine "$(MACHINE)" "$(ASV_HOME)"
	@$(ASV) run --machine "$(MACHINE)" --python "$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')" \
		--skip-existing-successful --show-stderr $(ARGS) "$(RANGE)"

asv-publish: $(HISTORY) ## write the page of asv's results to .asv/html; make asv-preview shows it
	@$(ASV) publish $(ARGS)

asv-preview: $(HISTORY) ## show asv's page in a browser; it loads its libraries from the network
	@$(ASV) preview --browser $(ARGS)

history: $(HISTORY) ## print the steps in asv's results, and draw build/history.png
	@mkdir -p build
	@$(BIN)/python -m tools.history --machine "$(MACHINE)" --figure build/history.png $(ARGS)

gate-credentials: $(STAMP) ## measure how often the gate is right, and write docs/measurements/gate.md; stops after an hour, and the next run continues
	@$(BIN)/python -m tools.gate_credentials $(ARGS)

exp-error: $(STAMP) ## measure the error of the compiled exp over every float32 in [-104, -0]; takes a minute
	@$(BIN)/python -m tools.exp_error --exhaustive

roofline: $(STAMP) ## compare the kernels with the hardware's limit and with other libraries; takes six minutes
	@$(BIN)/python -m tools.roofline $(ARGS)

peers: $(VENV)/.with-peers ## install the libraries for roofline's comparison: PyTorch and JAX (1 GB)

replay: $(STAMP) ## run the C kernels on the suite's cases without Python, on every instruction set of this CPU
	@$(BIN)/python -m tools.cross host $(ARGS)

aarch64: $(STAMP) ## run the C kernels compiled for aarch64, under emulation; needs a cross gcc and qemu-user
	@$(BIN)/python -m tools.cross aarch64 $(ARGS)

wheel: PYTHONS = $(BIN)/python
wheel: $(WHEELS) ## build, install and check an sdist and wheels in dist/: PYTHONS="python3.11 python3.12"
	@$(BIN)/python -m tools.wheels build dist $(PYTHONS)

clean: ## remove .venv, build products and caches
	rm -rf $(VENV) build dist .asv .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -rf kernels/*.egg-info bench/*.egg-info *.egg-info
	rm -f $(BUILD_ERRORS) $(CYTHON_DIR)/_kernels.c $(CEILINGS_DIR)/_loops.c $(CYTHON_DIR)/*.so $(CEILINGS_DIR)/*.so
	rm -rf docs/*/generated
	find kernels bench tests tools docs examples -name __pycache__ -type d -prune -exec rm -rf {} +

# The install is editable, so that a change of Python code needs no build, and a change of C or Cython only recompiles.
# A failed build is tried again each time, since a compiler may have been installed. The build requirements are installed
# first, once: pip's isolated environment would download them again.
BUILD_REQUIRES := $(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")'
$(STAMP): pyproject.toml $(SOURCES) $(if $(wildcard $(BUILD_ERRORS)),retry) | $(BIN)/pip
	@echo "$(if $(filter pyproject.toml,$?),Installing what the commands need and building: this takes a minute or two.,Building the compiled parts.)"
	@$(if $(filter pyproject.toml,$?),$(call quietly,$(BUILD_REQUIRES) | $(PIP_INSTALL) --requirement /dev/stdin))
	@$(call quietly,$(PIP_INSTALL) --no-build-isolation --editable $(if $(filter pyproject.toml,$?),'.[bench]',. --no-deps))
	@test ! -f $(CYTHON_DIR)/build_error.txt || { \
		echo "The Cython backend could not be built: $$(cat $(CYTHON_DIR)/build_error.txt)" >&2; \
		echo "Everything else works. The compiler's messages: SOFTMAX_CE_REQUIRE_ALL=1 make setup" >&2; }
	@touch $@

# The package is already installed, so pip adds only the requirements of the extra.
$(VENV)/.with-%: pyproject.toml | $(STAMP)
	@echo "Installing what $* needs."
	@$(call quietly,$(PIP_INSTALL) 'softmax-ce[$*]')
	@touch $@

# Two processes compile before the tests start. Otherwise each test process would compile everything.
WARM_UP := $(BIN)/python -c 'import sys, numpy as np, softmax_ce as sce; sce.get_backend("numba").warmup(sys.argv[1:]); \
	x = np.zeros((1, 2), sys.argv[1]); [sce.cross_entropy_with_hessian(x, t, backend="numba") for t in ([0], x)]; \
	parts = [sce.shards.partial(x, [0], first_class=k, n_classes=4, backend="numba") for k in (0, 2)]; \
	sce.shards.grad(x, [0], sce.shards.combine(parts), first_class=0)'
$(COMPILED): $(wildcard $(addprefix kernels/softmax_ce/,_version.py tuning.py _backends/numba_jit/*.py)) | $(STAMP)
	@echo "Compiling the Numba backend."
	@$(WARM_UP) float32 2>&1 & $(WARM_UP) float64 2>&1; wait
	@touch $@

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "softmax-ce needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1)." >&2; \
		echo "Name a newer one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Creating $(VENV)."
	@$(PYTHON) -m venv $(VENV)
