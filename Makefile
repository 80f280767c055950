# "make help" says what there is. Every target does its own set-up, and only what is not yet done.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
SECONDS ?= 60

unexport PYTHONPATH

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --no-input
# -P keeps the source tree out of sys.path: what is tested is what was installed.
PYTEST := $(PY) -P -m pytest
REPORT := build/bench/report

# The extension modules once more, with gcc's sanitizers and its calls for coverage.
SANITIZED := build/sanitized
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=undefined
SANITIZED_TESTS := tests/contract tests/aio $(addprefix tests/test_,$(addsuffix .py,buffer frame fuzz handshake \
	resume schedule send_queue session session_limits session_properties sessions vectors wire))
# An allocation that is too large shall fail, as it does without. What Python never frees is no leak
# of ours; malloc, or a use of freed memory hides in Python's own pools.
UNDER_SANITIZERS = LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $(SANITIZED)/coverage.so" \
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
	PYTHONMALLOC=malloc PYTHONPATH=$(abspath $(SANITIZED)/lib)

# Directories too: their time changes when a file goes away.
SOURCES := setup.py README.md LICENSE $(shell find tcpconn -name __pycache__ -prune -o \
	\( -type d -o -name '*.py*' -o -name '*.pxd' -o -name '*.h' -o -name py.typed \) \
	! -name '*.pyd' -print)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help test test-slow soak fuzz sanitize test-stdlib-link test-free-threaded bench bench-peers bench-scale bench-compare check-cost \
	lint types format check wheel sdist develop clean distclean

help:
	@echo "make test                  build tcpconn, install it into $(VENV), run the tests on it"
	@echo "make test ARGS='-k pool'   the same, with arguments for pytest"
	@echo "make test-slow             the tests that take long, and only these"
	@echo "make soak SECONDS=600      checked traffic over links that break, for so long;"
	@echo "                           make soak ARGS='--tls --seed 7' for more: ARGS=--help;"
	@echo "                           ARGS=--kill kills the server, SECONDS=10 ARGS=--cost measures"
	@echo "make fuzz SECONDS=600      nonsense of all kinds for the protocol code, under gcc's sanitizers;"
	@echo "                           make fuzz ARGS='--jobs 1 --keep' for more: ARGS=--help"
	@echo "make sanitize              the tests of compiled code once under gcc's sanitizers"
	@echo "make test-stdlib-link      the tests on the link that uses Python's sockets"
	@echo "make test-free-threaded PYTHON=python3.14t"
	@echo "                           the tests on a Python without the GIL, in an environment of its own"
	@echo "make bench                 measure, and write a report to build/bench/"
	@echo "make bench ARGS=--quick    the same within a minute"
	@echo "make bench-peers           measure other libraries too"
	@echo "make bench-scale           measure what grows: connections, threads, message sizes, links, clients"
	@echo "make bench-compare BASE=HEAD~3"
	@echo "                           measure against another commit, run by run"
	@echo "make check-cost            instructions of the hot paths against those on record (valgrind)"
	@echo "make check                 lint and types"
	@echo "make format                let ruff rewrite the Python files"
	@echo "make develop               compile in place; then: PYTHONPATH=. $(PY) ..."
	@echo "make wheel, make sdist     what would be published, in dist/"
	@echo "make clean                 remove what was built; make distclean: the environments as well"
	@echo
	@echo "PYTHON=python3.13 chooses the interpreter (3.11 or newer), VENV=directory the environment."

test: $(VENV)/.installed $(VENV)/.extra-test
	$(check-installed)
	$(PYTEST) $(ARGS)

test-slow: $(VENV)/.installed $(VENV)/.extra-test
	$(check-installed)
	$(PYTEST) -m slow $(ARGS)

soak: $(VENV)/.installed $(VENV)/.extra-test
	$(check-installed)
	PYTHONPATH=tests $(PY) -P -m faults.soak --seconds $(SECONDS) $(ARGS)

fuzz: $(SANITIZED)/.built
	$(UNDER_SANITIZERS):$(CURDIR) $(PY) -P -m fuzz --seconds $(SECONDS) $(ARGS)

# Those that fork processes or race with clocks say nothing new here, and take long.
sanitize: $(SANITIZED)/.built $(VENV)/.extra-test
	$(UNDER_SANITIZERS) $(PYTEST) -p no:cacheprovider --timeout 600 $(or $(ARGS),$(SANITIZED_TESTS))

test-stdlib-link: $(VENV)/.installed $(VENV)/.extra-test
	$(check-installed)
	TCPCONN_LINK=stdlib $(PYTEST) $(ARGS)

test-free-threaded:
	@$(PYTHON) -c 'import sys, sysconfig; sys.exit(not sysconfig.get_config_var("Py_GIL_DISABLED"))' || \
	{ echo "error: $(PYTHON) is not a free-threaded Python: name one with PYTHON=python3.14t" >&2; exit 1; }
	$(MAKE) VENV=.venv-free-threaded .free-threaded

.PHONY: .free-threaded
.free-threaded: $(VENV)/.installed $(VENV)/.extra-test-base
	$(check-installed)
	@# Importing a module that wants the GIL would turn it on again, with a warning.
	$(PY) -P -W error -c 'import sys, tcpconn; assert not sys._is_gil_enabled()'
	$(PIP) install --quiet --only-binary :all: hypothesis || echo "no hypothesis here: its tests are skipped"
	$(PYTEST) $(ARGS)

bench: $(VENV)/.installed $(VENV)/.extra-bench
	@mkdir -p $(dir $(REPORT))
	$(PY) -m benchmarks --json $(REPORT).json --markdown $(REPORT).md --html $(REPORT).html $(ARGS)
	@echo "The report: $(REPORT).html, $(REPORT).md, $(REPORT).json"

bench-peers: $(VENV)/.installed $(VENV)/.extra-bench $(VENV)/.extra-peers
	@$(MAKE) bench ARGS="--peers $(ARGS)"

bench-scale: $(VENV)/.installed $(VENV)/.extra-bench
	@$(MAKE) bench ARGS="--only connections --only threads --only sizes --only links --only clients $(ARGS)"

bench-compare: $(VENV)/.installed $(VENV)/.extra-bench
	@test -n "$(BASE)" || { echo "error: name a commit with BASE=..." >&2; exit 1; }
	$(PY) -m benchmarks.compare $(BASE) $(ARGS)

check-cost: $(VENV)/.installed
	$(PY) -m benchmarks.cost $(ARGS)

check: lint types

lint: $(VENV)/.extra-lint
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	PATH="$(abspath $(VENV))/bin:$$PATH" cython-lint tcpconn benchmarks  # it calls pycodestyle

types: $(VENV)/.installed $(VENV)/.extra-lint
	$(PY) -m mypy -p tcpconn -p fuzz
	@# The .pyi say what the compiled modules really have.
	$(PY) -P -m mypy.stubtest tcpconn --ignore-disjoint-bases \
		--allowlist .ci/stubtest-allowlist.txt --ignore-unused-allowlist

format: $(VENV)/.extra-lint
	$(PY) -m ruff check --fix-only .
	$(PY) -m ruff format .

wheel: $(VENV)/.installed
	@mkdir -p dist
	cp $(VENV)/wheel/*.whl dist/

sdist: $(VENV)/.build-tools
	$(PY) -m build --no-isolation --sdist --outdir dist .

develop: $(VENV)/.extra-test build/.setup
	$(PY) setup.py build_ext --inplace

clean:
	rm -rf build dist *.egg-info .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find tcpconn -name '*.so' -delete
	find . -name .venv\* -prune -o -name __pycache__ -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv .venv-*

# The set-up, step by step. Each step leaves a stamp in the environment that it was made for.

# An environment made with another interpreter than the one now asked for is made anew.
ifneq ($(origin PYTHON),file)
ifneq ($(shell cat $(VENV)/.made 2>/dev/null),$(PYTHON))
.PHONY: $(VENV)/.made
endif
endif

$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { echo "error: there is no $(PYTHON)" >&2; exit 1; }
	@$(PYTHON) .ci/preflight.py
	$(PYTHON) -m venv --clear $(VENV)
	@echo $(PYTHON) > $@

# The same build requirements that pip reads, installed once instead of for every build.
$(VENV)/.build-tools: pyproject.toml $(VENV)/.made
	@$(PY) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], "build", sep="\n")' > $@
	$(PIP) install --quiet -r $@

# Cython does not notice when only its directives change.
build/.setup: setup.py
	@rm -rf build/cython build/lib* build/temp*
	@mkdir -p build
	@touch $@

$(VENV)/.installed: $(SOURCES) $(VENV)/.build-tools build/.setup
	@$(PY) .ci/preflight.py
	@rm -rf $(VENV)/wheel
	@# Else setuptools puts files that are long gone from the tree into the wheel.
	@find build -path 'build/lib*' -type f ! -name '*.so' -delete
	$(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir $(VENV)/wheel .
	$(PIP) install --quiet --no-deps --force-reinstall $(VENV)/wheel/*.whl
	@touch $@

$(SANITIZED)/.built: $(SOURCES) fuzz/coverage.c $(VENV)/.build-tools build/.setup
	CC=gcc CFLAGS="$(SANITIZE) -fsanitize-coverage=trace-pc -fno-omit-frame-pointer -g1" LDFLAGS="$(SANITIZE)" \
	$(PY) setup.py --quiet build --build-lib $(SANITIZED)/lib --build-temp $(SANITIZED)/temp
	gcc -shared -fPIC -O2 -o $(SANITIZED)/coverage.so fuzz/coverage.c
	@touch $@

$(VENV)/.extra-%: pyproject.toml $(VENV)/.made | $(VENV)/.installed
	$(PIP) install --quiet "$$(echo $(VENV)/wheel/*.whl)[$*]"
	@touch $@

define check-installed
@$(PY) -P -c 'import sys, importlib.util as u; f = u.find_spec("tcpconn").origin; sys.exit(None if f.startswith(sys.prefix) else f"error: the tests would run on {f}, not on what was installed")'
endef
