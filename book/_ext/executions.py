"""What the build knows of its pages: their sources, their runs, and the ledger's entries."""
from pathlib import Path

import nbformat
import pages
from jupyter_cache import get_cache
from lecturelib import ledger


def root(app) -> Path:
    return Path(app.srcdir)


def executed(app, docname: str):
    """The page as executed; MyST-NB writes pages that came from the cache without outputs."""
    path = Path(app.outdir).parent / "jupyter_execute" / f"{docname}.ipynb"
    if not path.exists():
        return None
    notebook = nbformat.read(path, 4)
    if not any(cell.get("outputs") for cell in notebook.cells):
        try:
            _, notebook = get_cache(app.config.nb_execution_cache_path).merge_match_into_notebook(
                notebook)
        except KeyError:
            return None
        nbformat.write(notebook, path)
    return notebook


def sources(app) -> dict[str, Path]:
    """Page name (relative to book/) to source, for the notebooks that are in the build."""
    book = root(app) / "book"
    names = {p.relative_to(book).with_suffix("").as_posix(): p for p in pages.notebooks(book)}
    return {n: p for n, p in names.items()
            if f"book/{n}" in app.env.found_docs and f"book/{n}" not in app.lecture_broken}


def runs(app) -> dict[str, list[dict]]:
    found = {name: executed(app, f"book/{name}") for name in sources(app)}
    return {name: ledger.records(nb) for name, nb in found.items() if nb is not None}


def entries(app) -> list[ledger.Entry]:
    return ledger.load(root(app) / "book" / "ledger") if app.lecture_ledger else []
