"""Static tests of the book: the pages, the ledger and the configuration agree with each other.

Nothing is executed here, so a slip shows in a second; the pages themselves are run by the root
conftest.py.
"""
import importlib
import inspect
import re
import tomllib
from collections import Counter
from functools import cache
from pathlib import Path

import jupytext
import pages  # in book/_ext, found through the root conftest.py
import pytest
import yaml
from lecturelib import ledger

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "book"
PAGES = {p.relative_to(BOOK).with_suffix("").as_posix(): p for p in pages.sources(BOOK)}
LEDGERS = sorted((BOOK / "ledger").glob("*.toml"))
SKIPPING = {"nbval-skip", "nbval-ignore-output", "skip-execution"}
AMS = re.compile(r"\\begin\{(?:align|alignat|eqnarray|flalign|gather|multline)\*?\}")


def none(faults, what: str) -> None:
    __tracebackhide__ = True
    assert not faults, "\n".join([f"{what}:", *map(str, faults)])


def read(page: str) -> str:
    return PAGES[page].read_text("utf-8")


@cache
def notebooks() -> dict:
    """Page to notebook, for the pages with code cells."""
    return {name: jupytext.reads(read(name), fmt="md:myst") for name in PAGES
            if pages.is_notebook(read(name)) and not pages.unreadable(read(name))}


def cells():
    """(page and number, cell) of every code cell of the book."""
    return [(f"{name}, cell {k}", c) for name, nb in notebooks().items()
            for k, c in enumerate(c for c in nb.cells if c.cell_type == "code")]


def entries() -> list[ledger.Entry]:
    return ledger.load(BOOK / "ledger")


def symbols() -> list[dict]:
    return [s for path in LEDGERS for s in tomllib.loads(path.read_text("utf-8")).get("symbol", [])]


def config() -> dict:
    return yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))


# ---------------------------------------------------------------------------------------- pages
def test_every_page_can_be_read():
    none([f"{n}: {fault}" for n in PAGES if (fault := pages.unreadable(read(n)))], "unreadable")


def test_every_page_with_code_is_collected(request):
    """Without the hook of the root conftest.py the pages would be left out, and all be green."""
    assert "book" in request.config.getini("testpaths")
    collect = request.config.hook.pytest_collect_file
    none([path.relative_to(ROOT) for path in pages.notebooks(BOOK)
          if not collect(file_path=path, parent=request.session)], "not collected")


def test_table_of_contents_lists_every_page_once():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))

    def files(node):
        if isinstance(node, dict):
            yield from ([node["file"]] if "file" in node else [])
            yield from (f for value in node.values() for f in files(value))
        elif isinstance(node, list):
            yield from (f for value in node for f in files(value))

    listed = Counter([toc["root"], *files(toc)])
    there = {f"book/{name}" for name in PAGES}
    none(sorted(there - set(listed)), "pages that are not in _toc.yml")
    none(sorted(set(listed) - there), "in _toc.yml, but there is no such page")
    none([f for f, n in listed.items() if n > 1], "more than once in _toc.yml")


def test_labels_are_unique():
    none([f"{p.relative_to(ROOT)}: {fault}" for p, fault in pages.repeated(BOOK).items()],
         "labels used twice")


def test_displayed_equations_and_statements_carry_a_label():
    none([f"{name}, line {line}: {what}" for name in PAGES
          for line, what in pages.scan(read(name)).bare], "without a label")


def test_multi_line_equations_are_aligned_inside_one_math_block():
    """`align` and its kin are counted one way on the site and another way in print."""
    none([f"{name}, line {k}: {line.strip()}" for name in PAGES
          for k, line in enumerate(read(name).splitlines(), 1) if AMS.search(line)],
         "write {math} with aligned instead")


def test_equations_hold_no_roles():
    """Inside a formula {eq}`label` is no reference but the letters themselves."""
    none([f"{name}: {m[0]}" for name in PAGES for block in re.findall(r"```\{math\}.*?```\n|\$\$.*?\$\$", read(name), re.DOTALL)
          for m in re.finditer(r"\{[a-z:]+\}`[^`]*`", block[4:])], "references inside formulas")


def test_figures_have_a_text_for_those_who_cannot_see_them():
    hidden = {"remove-cell", "remove-output"}
    none([where for where, c in cells()
          if re.search(r"plt\.(subplots|figure)\(", c.source)
          and not hidden & set(c.metadata.get("tags", ()))
          and not c.metadata.get("mystnb", {}).get("image", {}).get("alt", "").strip()],
         "figures without `mystnb: image: alt:`")
    none([name for name in PAGES if re.search(r"!\[\s*\]\(", read(name))], "images without a text")


def test_no_cell_is_kept_from_the_tests():
    none([where for where, c in cells() if SKIPPING & set(c.metadata.get("tags", ()))],
         f"cells tagged {' or '.join(sorted(SKIPPING))}")


# --------------------------------------------------------------------------------------- ledger
def test_labels_and_ledger_entries_agree():
    mine = [e for e in entries() if e.verdict != "to come"]
    declared = {(e.page, e.id) for e in mine if e.kind != "remark"}
    labels = {(name, x.name) for name in PAGES for x in pages.scan(read(name)).labels}
    none(sorted(labels - {(e.page, e.id) for e in mine}), "labels without a ledger entry")
    none(sorted(declared - labels), "ledger entries without a label in their page")


def test_a_label_of_an_equation_is_that_of_an_equation():
    none([f"{path.name}: {e['id']} is of kind {e['kind']!r}" for path in LEDGERS for e in tomllib.loads(path.read_text("utf-8")).get("entry", [])
          if e["id"].startswith("eq-") != (e["kind"] == "equation")], "an entry's kind decides how the appendix refers to it")


def test_ledger_entries_belong_to_pages():
    none(ledger.strays(entries(), PAGES), "entries without a page")
    none([e.id for e in entries() if e.verdict == "to come" and e.page in PAGES],
         "called 'to come' although the page is there")
    unchecked = {e.page for e in entries() if e.verdict != "to come" and e.page in PAGES
                 and not pages.is_notebook(read(e.page))}
    none(sorted(unchecked), "pages with ledger entries and no code cell to check them")


def test_every_numbered_item_of_the_notes_has_one_entry():
    items = (BOOK / "ledger" / "numbered.txt").read_text("utf-8").split("\n")
    found = Counter(e.notes for e in entries())
    none([f"{item}: {found[item]}" for item in items if item and found[item] != 1],
         "items of the notes and the number of their ledger entries, which is to be 1")


@pytest.mark.parametrize("symbol", symbols(), ids=lambda s: s["symbol"])
def test_symbol_names_code_that_exists(symbol):
    known = set(PAGES) | {e.page for e in entries()}
    assert symbol["page"] in known, f"no page {symbol['page']!r}"
    if not symbol["code"]:
        return
    dotted, _, parameters = symbol["code"].rstrip(")").partition("(")
    first, *rest = dotted.split(".")
    thing = importlib.import_module(first)
    for name in rest:
        if inspect.ismodule(thing) and not hasattr(thing, name):
            importlib.import_module(f"{thing.__name__}.{name}")
        thing = getattr(thing, name)
    for parameter in re.findall(r"(\w+)=", parameters):
        assert parameter in inspect.signature(thing).parameters, f"{dotted} has no {parameter!r}"


# ---------------------------------------------------------------- what is recorded, cited, pinned
def test_recorded_references_belong_to_checked_pages():
    folder = ROOT / "tests" / "reference"
    checked = {where.rsplit(", cell", 1)[0] for where, c in cells()
               if "nbval-check-output" in c.metadata.get("tags", ())}
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*")
             if p.is_file() and not p.name.startswith(".")}
    unread = {f"{name}.json" for name in PAGES if pages.unreadable(read(name))}
    wanted = {f"{name}.json" for name in checked}
    none(sorted(there - wanted - unread), "in tests/reference without a checked cell: delete them")
    none(sorted(wanted - there),
         "missing in tests/reference: run `make record` and read the difference")


def test_citations_and_bibliography_agree():
    text = "\n".join(p.read_text("utf-8") for p in map(ROOT.joinpath, config()["bibtex_bibfiles"]))
    keys = re.findall(r"^\s*@(?!comment|string|preamble)\w+\{\s*([^,\s]+)\s*,", text, re.M | re.I)
    cited = {key.strip() for name in PAGES
             for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", read(name))
             for key in keys.split(",")}
    none([key for key, n in Counter(keys).items() if n > 1], "twice in the bibliography")
    none(sorted(cited - set(keys)), "cited, but not in the bibliography")
    none(sorted(set(keys) - cited), "in the bibliography, but cited nowhere")


def test_requirements_pin_exact_versions():
    first, *rest = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    assert first == "-e ./lib"
    none([x for x in rest if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", x)],
         "not an exact version")
    weights = (ROOT / "requirements-weights.txt").read_text("utf-8").splitlines()
    none([x for x in weights if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", x)], "not an exact version")


def test_repository_is_named_once():
    """Only _config.yml says where the book lives; what must repeat it has to agree."""
    owner = config()["repository"]["url"].split("://")[1].split("/", 1)[1]
    files = [p for folder in ("book", "lib", "binder") for p in (ROOT / folder).rglob("*")
             if p.suffix in {".md", ".py", ".toml", ".json", ".txt", ".yml", ""} and p.is_file()
             and ".egg-info" not in p.as_posix()]
    none([p.relative_to(ROOT) for p in files if owner in p.read_text("utf-8", errors="ignore")],
         f"{owner} belongs into _config.yml alone")
    for name in ("README.md", "CITATION.cff"):
        if (path := ROOT / name).exists():
            stem = re.escape(owner.split("/")[1])
            found = re.findall(rf"(?:github\.com|/gh)/([\w.-]+/{stem})\b", path.read_text("utf-8"))
            none(sorted(set(found) - {owner}), f"{name} names another repository than _config.yml")
