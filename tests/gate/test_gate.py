"""The gate can fail: faults are seeded in copies of a small book, and each is caught by name.

The small book is made of the real collector, extension, Makefile and static tests; it passes
whole, so that what a broken copy says is the fault's doing.
"""
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import nbformat
import pytest
import yaml
from lecturelib import ledger
from seeds import (BIN, PAGE, REFERENCE, SECOND, TOML, append, before_last_cell, remove, swap,
                   write)

STATIC = "tests/book/test_book.py::test_"
CELL, LEDGER = f"{PAGE}::Cell", f"{PAGE}::ledger"
PYTEST, SITE, STATICS = ("pytest",), ("html",), ("static",)
BOTH, STATIC_BOTH = ("pytest", "html"), ("static", "html")
EQUATION = "```{math}\n:label: eq-extra\n\\int_0^1 x\\,dx = \\tfrac12 .\n```\n"
ENTRY = """
[[entry]]
id = "eq-extra"
page = "pde/page"
kind = "equation"
title = "Integral of the identity"
verdict = "ours"
"""
FIGURE = "```{code-cell} ipython3\nimport matplotlib.pyplot as plt\nfig, ax = plt.subplots()\n```\n"
HEADER = "kernelspec: {display_name: Python 3"


@dataclass(frozen=True)
class Fault:
    """A fault and what catches it: `fails` lists every test of pytest that fails, `skipped` how
    many are left out after it, `warns` how many warnings the build gives; all of `says` is said
    wherever it is caught, `site` by the build only."""
    name: str
    seeds: tuple
    says: tuple
    fails: tuple = ()
    skipped: int = 0
    warns: int = 1
    site: tuple = ("pde/page",)
    how: tuple = PYTEST


def recorded(change):
    """Change the recorded cells, and seal them again."""
    def seed(book):
        cells = change(json.loads(book.read(REFERENCE))["cells"])
        text = json.dumps(["pde", "page", cells], sort_keys=True)
        book.write(REFERENCE, json.dumps({"format": 2, "sha256": hashlib.sha256(text.encode()).hexdigest(), "cells": cells}))
    return seed


def changed(cells):
    assert "0.3333" in (text := json.dumps(cells))
    return json.loads(text.replace("0.3333", "0.3334"))


def stale(cells):
    return {**cells, "0" * 16: {"source": "print(I + 1)", "outputs": []}}


def newer(book):
    book.write(REFERENCE, json.dumps({**json.loads(book.read(REFERENCE)), "format": 99}))


def halved(book):
    book.write(REFERENCE, book.read(REFERENCE)[:200])


def named_twice(book):
    url = yaml.safe_load(book.read("_config.yml"))["repository"]["url"]
    append("book/intro.md", f"\nThe source is at {url}.\n")(book)


FAULTS = (
    # --------------------------------------------------------------------------------- cells
    Fault("false assertion", (swap(PAGE, "assert abs(I - 1 / 3) < 1e-6", "assert I > 1 / 3"),),
          ("assert I > 1 / 3", "AssertionError"), (f"{CELL} 0",), skipped=5, warns=3,
          site=("book/pde/page.md raised",), how=BOTH),
    Fault("raised exception", (swap(PAGE, "print(f\"{I:.4f}\")", "raise OSError('seeded')"),
                               swap(PAGE, ":tags: [nbval-check-output]\n", ""),
                               remove(REFERENCE)),
          ("OSError", "seeded"), (f"{CELL} 1",), skipped=4, warns=3,
          site=("book/pde/page.md raised",), how=BOTH),
    Fault("dead kernel", (swap(PAGE, "x = small", "import os\nos._exit(1)\nx = small"),),
          ("kernel died; was there memory enough?",), (f"{CELL} 0",), skipped=5, warns=3, 
          site=("book/pde/page.md raised",), how=BOTH),
    # ---------------------------------------------------------------------------- references
    Fault("changed number", (recorded(changed),),
          ("Cell outputs differ", "0.3333", "0.3334"), (f"{CELL} 1",), skipped=4),
    Fault("edited reference", (swap(REFERENCE, "0.3333", "0.3334"),), (f"{REFERENCE}: damaged; restore it or run", "its checksum"),
          (f"{PAGE}::unreadable",)),
    Fault("deleted reference", (remove(REFERENCE),),
          (f"{REFERENCE} has no recorded output", "run `make record`", "pde/page.json"),
          (f"{CELL} 1", f"{STATIC}recorded_references_belong_to_checked_pages"), skipped=4),
    Fault("edited cell", (swap(PAGE, "print(f\"{I:.4f}\")", "print(f\"{I:.5f}\")"),),
          (f"{REFERENCE} has no recorded output for its present source",), (f"{CELL} 1",),
          skipped=4),
    Fault("stale reference", (recorded(stale),),
          (REFERENCE, "1 recorded outputs belong to no checked cell", "print(I + 1)"),
          (f"{PAGE}::references",)),
    Fault("untagged cell", (swap(PAGE, ":tags: [nbval-check-output]\n", ""),),
          (REFERENCE, "1 recorded outputs belong to no checked cell"),
          (f"{PAGE}::references", f"{STATIC}recorded_references_belong_to_checked_pages")),
    Fault("damaged reference", (halved,), (f"{REFERENCE}: damaged; restore it or run",),
          (f"{PAGE}::unreadable",)),
    Fault("newer reference", (newer,), (f"{REFERENCE}: format 99 is newer than 2",),
          (f"{PAGE}::unreadable",)),
    Fault("reference of no page", (write("tests/reference/pde/gone.json", "{}"),),
          ("without a checked cell", "pde/gone.json"),
          (f"{STATIC}recorded_references_belong_to_checked_pages",), how=STATICS),
    # --------------------------------------------------------------- equations, ledger, claims
    Fault("unlabelled equation", (before_last_cell("```{math}\n0 = 0\n```\n"),),
          ("{math} without a label",),
          (LEDGER, f"{STATIC}displayed_equations_and_statements_carry_a_label"),
          site=("book/pde/page.md:66",), how=BOTH),
    Fault("unlabelled equation in dollars", (before_last_cell("It follows that $$0 = 0 .$$\n"),),
          ("$$ without a label",),
          (LEDGER, f"{STATIC}displayed_equations_and_statements_carry_a_label")),
    Fault("unlabelled theorem", (before_last_cell("```{prf:theorem} Zero\n$0 = 0$.\n```\n"),),
          ("{prf:theorem} without a label",),
          (LEDGER, f"{STATIC}displayed_equations_and_statements_carry_a_label")),
    Fault("label without entry", (before_last_cell(EQUATION),),
          ("'eq-extra'",), (LEDGER, f"{STATIC}labels_and_ledger_entries_agree"),
          site=("label 'eq-extra' has no ledger entry",), how=BOTH),
    Fault("entry without label", (append(TOML, ENTRY), before_last_cell(
          "```{code-cell} ipython3\nledger.check('eq-extra', 0 == 0, '', how='exact')\n```\n")),
          ("eq-extra",), (LEDGER, f"{STATIC}labels_and_ledger_entries_agree")),
    Fault("entry without check", (before_last_cell(EQUATION), append(TOML, ENTRY)),
          ("pde/page: no check of 'eq-extra' ran",), (LEDGER,), how=BOTH),
    Fault("corrected without refutation",
          (swap(PAGE, ",\n             printed=abs(I - 1 / 2) < 1e-6)", ")"),),
          ("pde/page: 'eq-small' is called corrected, but no run shows the printed version",),
          (LEDGER,), how=BOTH),
    Fault("printed version passes", (swap(PAGE, "abs(I - 1 / 2) < 1e-6", "abs(I - 1 / 2) < 1"),),
          ("AssertionError: eq-small: the printed version passes as well",), (f"{CELL} 0",),
          skipped=5),
    Fault("theorem without counterexample",
          (swap(PAGE, "ledger.counterexample(\"thm-small\",", "print(\"\","),),
          ("pde/page: theorem 'thm-small' has no run with a hypothesis dropped",), (LEDGER,)),
    Fault("counterexample holds", (swap(PAGE, "for t in (0, 1)", "for t in (0, 0.5, 1)"),),
          ("AssertionError: thm-small: still holds without the hypothesis",), (f"{CELL} 0",),
          skipped=5),
    Fault("claim without tick", (swap(PAGE, "ledger.claim(1,", "print("),),
          ("AssertionError: claims without a tick: [1]",), (f"{CELL} 3",), skipped=2, warns=3,
          how=BOTH),
    Fault("claim not counted", (swap(PAGE, "is known.\n", "is known.\n2. So is another.\n"),),
          ("pde/page: lists 2 claims, but ledger.close(claims=1) ran",), (LEDGER,)),
    Fault("page not closed", (swap(PAGE, "ledger.close(claims=1)", "print()"),),
          ("pde/page: ledger.close(...) did not run",), (LEDGER,)),
    Fault("entry of no page", (append(TOML, ENTRY.replace("pde/page", "pde/pgae")),),
          ("entry 'eq-extra' is of 'pde/pgae', and there is no such page",),
          (f"{STATIC}labels_and_ledger_entries_agree",
           f"{STATIC}ledger_entries_belong_to_pages"), how=STATIC_BOTH),
    Fault("entry to come of a page that came",
          (swap(TOML, 'page = "pde/later"', 'page = "pde/page"'),),
          ("eq-later", "'to come'"), (LEDGER, f"{STATIC}ledger_entries_belong_to_pages")),
    Fault("item of the notes without entry", (append("book/ledger/numbered.txt", "(9.3)\n"),),
          ("(9.3): 0",), (f"{STATIC}every_numbered_item_of_the_notes_has_one_entry",),
          how=STATICS),
    Fault("symbol without code", (swap(TOML, "midpoints(n=)", "midpoints(m=)"),),
          ("lecturelib.small.midpoints has no 'm'",),
          (f"{STATIC}symbol_names_code_that_exists[n]",), how=STATICS),
    Fault("damaged ledger", (append(TOML, "\n[[entry]\n"),),
          ("small.toml: not valid TOML",), (LEDGER, f"{SECOND}::ledger"), how=SITE,
          site=("small.toml",)),
    # --------------------------------------------------------------------------------- pages
    Fault("pages not collected", (swap("conftest.py", "def pytest_collect_file", "def collect"),),
          ("not collected", "book/pde/page.md"),
          (f"{STATIC}every_page_with_code_is_collected",)),
    Fault("pages not in testpaths", (swap("pytest.ini", "lib book tests/unit", "lib tests/unit"),),
          ("test_every_page_with_code_is_collected",),
          (f"{STATIC}every_page_with_code_is_collected",), how=STATICS),
    Fault("page not in the toc", (write("book/pde/lost.md", "# Lost\n"),),
          ("book/pde/lost",), (f"{STATIC}table_of_contents_lists_every_page_once",),
          site=("book/pde/lost.md is not in _toc.yml, so it is neither executed nor built",),
          how=STATIC_BOTH),
    Fault("label used twice", (swap(SECOND, "# A second page", "(ex-small)=\n# A second page"),),
          ("book/quantization/page.md", "label 'ex-small' of line 6 is already used in "
           "book/pde/page.md, line 49: rename one of the two"),
          (f"{STATIC}labels_are_unique",), site=("book/quantization/page",), how=STATIC_BOTH),
    Fault("broken header", (swap(PAGE, HEADER, HEADER.replace("{", "{{")),),
          ("book/pde/page.md", "the YAML header cannot be read", "copy the block"),
          (f"{PAGE}::unreadable", f"{STATIC}every_page_can_be_read"), warns=2, how=BOTH),
    Fault("lost header", (swap(PAGE, HEADER, "kernel: {display_name: Python 3"),),
          ("book/pde/page.md", "the YAML header lacks 'kernelspec'", "copy the block"),
          (f"{PAGE}::unreadable", f"{STATIC}every_page_can_be_read")),
    Fault("broken cell", (swap(PAGE, "[nbval-check-output]", "[nbval-check-output"),),
          ("book/pde/page.md", "the page cannot be read", "Code cell 2 at line 44"),
          (f"{PAGE}::unreadable", f"{STATIC}every_page_can_be_read"), warns=2, how=BOTH),
    Fault("warning", (append("book/intro.md", "\nSee {doc}`nowhere`.\n"),),
          ("book/intro.md:5", "unknown document: 'nowhere'"), how=SITE, site=()),
    Fault("citation of nothing", (append("book/intro.md", "\nSee {cite:t}`Gauss1814`.\n"),),
          ("Gauss1814",), (f"{STATIC}citations_and_bibliography_agree",), how=STATICS),
    Fault("entry cited nowhere", (swap(PAGE, "{cite:t}`Euler1768`", "Euler"),),
          ("cited nowhere", "Euler1768"), (f"{STATIC}citations_and_bibliography_agree",),
          how=STATICS),
    Fault("figure without a text", (before_last_cell(FIGURE),), ("pde/page, cell 3",),
          (f"{STATIC}figures_have_a_text_for_those_who_cannot_see_them",), how=STATICS),
    Fault("align", (before_last_cell("```{math}\n:label: eq-small-2\n\\begin{align}0 &= 0\\end"
                                     "{align}\n```\n"), append(TOML, ENTRY.replace(
                                         "eq-extra", "eq-small-2"))),
          ("pde/page, line 68",),
          (f"{STATIC}multi_line_equations_are_aligned_inside_one_math_block",), how=STATICS),
    Fault("cell kept from the tests", (swap(PAGE, "[nbval-check-output]",
                                            "[nbval-check-output, nbval-skip]"),),
          ("pde/page, cell 1",), (f"{STATIC}no_cell_is_kept_from_the_tests",), how=STATICS),
    Fault("version not pinned", (append("requirements.txt", "sphinx>=7\n"),), ("sphinx>=7",),
          (f"{STATIC}requirements_pin_exact_versions",), how=STATICS),
    Fault("repository named twice", (named_twice,), ("book/intro.md",),
          (f"{STATIC}repository_is_named_once",), how=STATICS),
)


def test_small_book_passes(small, built):
    done = small.test()
    assert done.code == 0 and not done.failed(), done.text
    assert done.count("passed") >= 20 and done.count("skipped") == 0
    assert built.outcome.code == 0 and built.outcome.warnings() == 0
    assert (built.folder / "_build/html/book/pde/page.html").exists()


def test_checked_cell_must_print(fresh):
    """Comparing nothing with nothing would pass for ever."""
    swap(PAGE, "print(f\"{I:.4f}\")", "J = I")(fresh)
    done = fresh.test("book", "--record")
    assert done.code != 0 and done.failed() == {f"{CELL} 1"}
    assert "cell 1 is tagged nbval-check-output, but it has no output to compare" in done.text


# ---------------------------------------------------------------------------------- the cache
def run_time(book) -> float:
    """What the page's last execution recorded; the same number again means the cache answered."""
    executed = book.folder / "_build/jupyter_execute" / PAGE
    notebook = nbformat.read(executed.with_suffix(".ipynb"), 4)
    return next(r["seconds"] for r in ledger.records(notebook) if r["type"] == "run")


def test_edit_of_the_text_does_not_execute_again(warm):
    before = run_time(warm)
    swap(PAGE, "A small page", "The same small page")(warm)
    done = warm.html()
    assert done.code == 0, done.text
    assert "The same small page" in warm.read("_build/html/book/pde/page.html")
    assert run_time(warm) == before


@pytest.mark.parametrize("seed", [
    pytest.param(swap("lib/lecturelib/small.py", "(k + 0.5)", "(k + 0.6)"), id="code"),
    pytest.param(swap("lib/lecturelib/nodes.txt", "1000", "10"), id="data")])
def test_edit_in_lib_executes_again(seed, warm):
    """Also under a plain `jupyter-book build .`, without the Makefile and without -W."""
    seed(warm)
    done = warm.run(BIN / "jupyter-book", "build", ".")
    assert done.code != 0, done.text
    assert "book/pde/page.md raised" in done.text and "AssertionError" in done.text


def test_faults_are_said_again_by_the_next_build(warm):
    append("book/intro.md", "\nSee {doc}`nowhere`.\n")(warm)
    first, second = warm.html(), warm.html()
    assert first.code != 0 and second.code != 0, second.text
    assert "unknown document: 'nowhere'" in second.text


# --------------------------------------------------------------------------- a build that is killed
def kill_while(stage, book):
    """Start `make html`, and kill it with SIGKILL when it stands at `stage`."""
    held = book.folder / "held"
    process = subprocess.Popen(
        ["make", "html", f"BIN={BIN}"], cwd=book.folder, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=book.environment(SMALL_HOLD=stage, SMALL_HELD=str(held)))
    while not held.exists():
        assert process.poll() is None, f"the build ended before it was {stage}"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    held.unlink()


def site(book) -> dict:
    """File to digest of its content, in which numbers (the times of runs) and the random identities
    of cells are blotted; of the search index, which counts those numbers, only that it is whole."""
    root = book.folder / "_build/html"
    varies = re.compile(rb'"id": "\w+"|\d[\d.e-]*')
    found = {}
    for path in (p for p in root.rglob("*") if p.is_file()):
        content = path.read_bytes().strip()
        shown = content[-2:] if path.name == "searchindex.js" else varies.sub(b"", content)
        found[path.relative_to(root).as_posix()] = hashlib.sha256(shown).digest()
    return found


def differing(one: dict, other: dict) -> list:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def test_build_killed_while_executing(fresh, built):
    kill_while("executing", fresh)
    assert not (fresh.folder / "_build/html/book").exists()
    done = fresh.html()
    assert done.code == 0 and "the last build was interrupted" in done.text, done.text
    assert differing(site(fresh), site(built)) == []


def test_build_killed_while_writing(warm, built):
    for folder in ("html", ".doctrees", "jupyter_execute"):
        shutil.rmtree(warm.folder / "_build" / folder)
    kill_while("writing", warm)
    assert (warm.folder / "_build/html/book/intro.html").exists()
    assert not (warm.folder / "_build/html/book/quantization/page.html").exists()
    done = warm.html()
    assert done.code == 0 and "the last build was interrupted" in done.text, done.text
    assert differing(site(warm), site(built)) == []


def test_build_killed_while_storing_a_run(warm):
    """What a kill leaves in the cache: a run of which half is written, a run without its file."""
    half, none = sorted(warm.folder.glob("_build/.jupyter_cache/*/executed/*/base.ipynb"))
    half.write_bytes(half.read_bytes()[:100])
    none.unlink()
    (warm.folder / "_build/html/.unfinished").touch()
    done = warm.html()
    assert done.code == 0, done.text


def test_record_killed_while_writing(fresh):
    """The half-written file has another name, and is pointed at."""
    fresh.write("tests/reference/pde/tmp1234.part", "{")
    done = fresh.test()
    assert done.failed() == {f"{STATIC}recorded_references_belong_to_checked_pages"}, done.text
    assert "pde/tmp1234.part" in done.text


# -------------------------------------------------------------------------------- what is missing
def test_old_python_gets_one_sentence(fresh):
    old = fresh.folder / "old-python"
    old.write_text(f"""#!/bin/sh
[ "$1" = -c ] || {{ echo installing anyway; exit 99; }}
pretend="import sys; sys.version_info = (3, 9, 2, 'final', 0); exec(sys.argv[1])"
exec {sys.executable} -c "$pretend" "$2"
""")
    old.chmod(0o755)
    (fresh.folder / ".venv/.installed").unlink()
    done = fresh.run("make", "html", "PYTHON=./old-python")
    said = [line for line in done.text.splitlines() if not line.startswith("make: ***")]
    assert done.code != 0 and len(said) == 1, done.text
    assert said[0].startswith("This book needs Python 3.11 or newer, and ./old-python is 3.9: run")
    assert not (fresh.folder / ".venv/.installed").exists()


def test_missing_latex_is_named(fresh):
    done = fresh.run(shutil.which("make"), "pdf", PATH=str(fresh.folder / "nowhere"))
    assert done.code != 0
    assert done.text.startswith("make pdf needs LaTeX (latexmk and xelatex). On Debian"), done.text
    assert not (fresh.folder / "_build").exists()


# ---------------------------------------------------------------------- the site and the PDF
def test_external_url_is_caught(warm):
    offline = (sys.executable, "tests/site/offline.py", "_build/html")
    append(SECOND, '\n<img src="https://example.org/seeded.png" alt="seeded">\n')(warm)
    append("book/intro.md", '\n<script src="https://example.org/seeded.js"></script>\n')(warm)
    shutil.rmtree(warm.folder / "_build/html")
    built = warm.html()
    assert built.code == 0, built.text
    done = warm.run(*offline)
    assert done.code != 0
    for name in ("seeded.png", "seeded.js", "quantization/page.html", "intro.html"):
        assert name in done.text, done.text


def test_unbroken_site_loads_nothing_external(built):
    done = built.run(sys.executable, "tests/site/offline.py", "_build/html")
    assert done.code == 0, done.text


def test_question_marks_in_the_pdf_are_caught(warm):
    """A reference across pages to an exercise, without a text of its own, prints `Exercise ??`."""
    append(SECOND, "\nSee also {ref}`ex-small`.\n")(warm)
    done = warm.make("pdf")
    assert done.code != 0
    said = done.text.rsplit("tests/site/pdf.py", 1)[-1].splitlines()[1:-1]
    assert len(said) == 1, done.text
    assert "See also Exercise ??." in said[0]


# --------------------------------------------------------- the faults, run ahead since the start
CASES = [pytest.param(fault, how, id=f"{fault.name}-{how}") for fault in FAULTS
         for how in fault.how]


@pytest.mark.parametrize(("fault", "how"), CASES)
def test_fault_is_caught(fault, how, outcomes):
    done = outcomes(fault, how)
    assert done.code != 0, done.text
    for reason in fault.says + (fault.site if how == "html" else ()):
        assert reason in done.text, f"not said: {reason!r}\n{done.text}"
    if how == "html":
        assert done.warnings() == fault.warns, done.text
        assert (done.folder / "_build/html/book/quantization/page.html").exists()
        assert (done.folder / "_build/html/search.html").exists(), "the build was not finished"
    else:
        assert done.failed() == set(fault.fails), done.text
        assert done.count("skipped") == fault.skipped, done.text
