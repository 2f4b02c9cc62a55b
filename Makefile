# make book: the book in _build/html      make test: tests, then every notebook again
# make notebooks: re-execute changed labs  make serve, make lab, make bench, make results, make new KEY=...
PY  ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := PYTHONWARNINGS=ignore $(BIN)/pip install -q -c constraints.txt
# one BLAS thread a worker: two workers with two threads each are slower than two with one
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= passive
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: book test notebooks serve lab bench results new lint tables clean

.venv/bin/python:
	@$(PY) -c 'import sys; sys.exit("minimem needs Python 3.11 or newer, saw " + sys.version.split()[0] + "; say which: make PY=/path/to/python" if sys.version_info < (3, 11) else 0)'
	$(PY) -m venv .venv
	@$(PIP) -U pip

.venv/.book: pyproject.toml constraints.txt | .venv/bin/python
	@echo 'installing what the book needs into .venv: one to three minutes, once'
	@$(PIP) -e '.[book]'
	@touch $@

.venv/.test: .venv/.book requirements-nodeps.txt
	@echo 'installing what the tests need beside it, other implementations among them: one to three minutes, once'
	@$(PIP) -e '.[text,server,notebooks,book,test,oracles]'
	@$(PIP) --no-deps -r requirements-nodeps.txt
	@touch $@

tables: .venv/.book
	$(BIN)/python -m minimem.catalog tables

book: tables
	@start=$$(date +%s); $(BIN)/jupyter-book build . -W --keep-going -n -q && \
	echo "book: _build/html/index.html, built in $$(( $$(date +%s) - start )) s"

test: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/python -m minimem.catalog
	$(BIN)/pytest -q -n 2 --dist loadfile tests
	$(BIN)/pytest -q --nbval --nbval-current-env --nbval-cell-timeout=300 --nbval-sanitize-with tests/nbval.cfg -n 2 --dist loadfile notebooks

notebooks: .venv/.test
	$(BIN)/python tools/notebooks.py

serve: book
	$(BIN)/python -m http.server 8000 --bind 127.0.0.1 -d _build/html

lab: .venv/.test
	$(BIN)/jupyter lab notebooks

bench: .venv/.test
	for b in benchmarks/[a-z]*.py; do $(BIN)/python $$b || exit 1; done

results: .venv/.test
	for b in benchmarks/trained/[a-z]*.py; do $(BIN)/python $$b || exit 1; done

new: .venv/.test
	$(BIN)/python tools/new.py $(KEY)

lint: .venv/.test
	$(BIN)/ruff check .

clean:
	rm -rf _build book/generated
