"""Sphinx side of the book.

* Executed pages are cached under a digest of `lib/` and the pinned versions, so an edit there
  re-executes every page, also under a plain `jupyter-book build .`.
* A build that was killed or had warnings is wiped before the next one starts: Sphinx would
  otherwise take its pages for finished and say nothing.
* A page that raises costs the build its success, not the other pages.
* Every page's run is audited against the ledger; a fault is a warning, and `-W` makes it fatal.
* The directives of `appendix.py` render the appendix from the ledger files and from what the
  pages recorded in this very build.
"""
import re
import shutil
from pathlib import Path

import pages
from appendix import Benchmarks, Errata, Ledger, Notation, Reproducibility
from docutils import nodes
from executions import entries, root, runs, sources
from jupyter_cache import get_cache
from jupyter_cache.cache.db import NbCacheRecord
from jupyter_cache.executors import utils as executors
from lecturelib import ledger
from nbclient.exceptions import CellExecutionError, DeadKernelError
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sqlalchemy.exc import SQLAlchemyError
from results import Result, ResultsFigure, ResultsTable, Scoreboard
from sphinx_proof.nodes import proof_node

log = logging.getLogger(__name__)
REPORTS = re.compile(r"^`{3,}\{(?:scoreboard|results-(?:table|figure))\}", re.MULTILINE)


def key_cache(app, config) -> None:
    config.lecture_digest = pages.digest(root(app))
    caches = Path(app.outdir).parent / ".jupyter_cache"
    config.nb_execution_cache_path = str(caches / config.lecture_digest)
    unfinished = Path(app.outdir) / ".unfinished"
    if unfinished.exists():
        log.info("the last build was interrupted or had warnings: starting its output anew")
        for folder in (Path(app.outdir), Path(app.doctreedir)):
            for item in folder.iterdir() if folder.exists() else ():
                if item != unfinished:  # goes last, lest a kill here leave half a site unmarked
                    shutil.rmtree(item) if item.is_dir() else item.unlink()
        forget_halves(caches)
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    unfinished.touch()


def forget_halves(caches: Path) -> None:
    """Drop the runs that a killed build stored in part; the cache would stumble on them."""
    for folder in caches.glob("*"):
        cache = get_cache(folder)
        try:
            for record in cache.list_cache_records():
                try:
                    cache.get_cache_bundle(record.pk)
                except (KeyError, OSError, ValueError):      # no such run, no file, half a file
                    shutil.rmtree(folder / "executed" / record.hashkey, ignore_errors=True)
                    NbCacheRecord.remove_record(record.pk, cache.db)
        except SQLAlchemyError:
            shutil.rmtree(folder, ignore_errors=True)


def survey(app, env, docnames) -> None:
    """What can be said before any page is read; this runs even if no page has changed."""
    book = root(app) / "book"
    app.lecture_repeated = pages.repeated(book)
    for path in pages.sources(book):
        name = path.relative_to(root(app)).as_posix()
        if name.removesuffix(".md") not in env.found_docs:
            log.warning("%s is not in _toc.yml, so it is neither executed nor built: add it there "
                        "or remove it", name)
    try:
        there = [p.relative_to(book).with_suffix("").as_posix() for p in pages.sources(book)]
        for fault in ledger.strays(ledger.load(book / "ledger"), there):
            log.warning(fault)
    except ValueError as error:
        app.lecture_ledger = False
        app.statuscode = 1
        log.warning("%s; until this is mended the appendix is empty", error)


def guard(app, docname, source) -> None:
    """A page that cannot be read, or that uses a label again, costs one warning and shows it; the
    other pages are built."""
    path = Path(app.env.doc2path(docname))
    if path.suffix != ".md":
        return
    fault = pages.unreadable(source[0]) or app.lecture_repeated.get(path)
    if fault:
        app.lecture_broken.add(docname)
        app.statuscode = 1
        log.warning(fault, location=docname)
        source[0] = f"# {docname}\n\n:::{{error}}\n```text\n{fault}\n```\n:::\n"


def survive(execute):
    """Make a kernel's death a page's fault; the cache's executor lets it end the whole build."""
    def run(nb, **options):
        try:
            return execute(nb, **options)
        except DeadKernelError as error:
            raise CellExecutionError("The kernel died; was there memory enough?\n",
                                     type(error).__name__, str(error)) from error
    return run


def scripts_once(app, pagename, templatename, context, doctree) -> None:
    """Jupyter Book adds some inline scripts twice, which is an error on the console, and those of
    Thebe, which runs code on a server and is not used here."""
    seen, kept = set(), []
    for script in context.get("script_files", []):
        attributes = getattr(script, "attributes", {})
        body = attributes.get("body") or ""
        if "thebe" in str(script.filename).lower() or "THEBE" in body or body and body in seen:
            continue
        seen.add(body)
        kept.append(script)
    context["script_files"] = kept


def finish(app, error) -> None:
    if error is not None:
        return
    failed = [doc for doc, data in app.env.nb_metadata.items()
              if not data.get("exec_data", {}).get("succeeded", True)]
    for doc in failed:
        log.error("%s.md raised; the pages around it are built, this one is not", doc)
        app.statuscode = 1
    if failed or app._warncount:
        return
    (Path(app.outdir) / ".unfinished").unlink(missing_ok=True)
    current = Path(app.config.nb_execution_cache_path)
    for old in current.parent.glob("*"):
        if old != current and old.is_dir():
            shutil.rmtree(old, ignore_errors=True)


def reports(env, docnames) -> list[str]:
    """The pages that report on the runs of others: those with a scoreboard or results, and the appendix."""
    def late(doc):
        path = Path(env.doc2path(doc))
        return path.suffix == ".md" and REPORTS.search(path.read_text("utf-8")) is not None
    mine = [d for d in docnames if d.startswith("book/appendix/")]
    return [d for d in docnames if d not in mine and late(d)] + mine


def refresh_appendix(app, env, added, changed, removed):
    return reports(env, env.found_docs) if added or changed or removed else []


def appendix_last(app, env, docnames) -> None:
    """What reports on other pages is read after they are read, and run."""
    last = reports(env, docnames)
    docnames[:] = [d for d in docnames if d not in last] + last


def audit(app, env) -> None:
    declared, ran = entries(app), runs(app)
    for name, path in sources(app).items() if app.lecture_ledger else ():
        doc = f"book/{name}"
        data = env.nb_metadata.get(doc, {}).get("exec_data", {})
        if not data.get("succeeded", True):
            continue  # reported already; its run says nothing
        scan = pages.scan(path.read_text("utf-8"))
        for line, what in scan.bare:
            log.warning(what, location=(doc, line))
        mine = [x.name for x in scan.labels]
        for label in known_to_sphinx(env, doc) - set(mine):
            log.warning("%r is numbered in the book, but the scan for the ledger missed it", label,
                        location=doc)
        for fault in ledger.audit(name, mine, declared, ran.get(name, []), scan.claims):
            log.warning(fault, location=doc)


def known_to_sphinx(env, doc) -> set[str]:
    """Labels of the equations and statements of a page as Sphinx numbers them."""
    return ({label for label, (where, _) in env.get_domain("math").equations.items()
             if where == doc}
            | {label for label, where in getattr(env, "proof_list", {}).items()
               if where["docname"] == doc and where["realtype"] in pages.STATEMENTS
               and not re.fullmatch(rf"{where['realtype']}-\d+", label)})  # unlabelled: in `bare`


class PlainProofs(SphinxPostTransform):
    """In print a proof is running text that ends with a square, not an admonition without title."""
    default_priority = 20
    builders = ("latex",)

    def run(self, **kwargs):
        for proof in list(self.document.findall(proof_node)):
            body = list(proof[0].children)
            first = next((t for t in proof[0].findall(nodes.Text) if t.startswith("Proof. ")), None)
            if first is not None:
                where = first.parent.index(first)
                first.parent[where:where + 1] = [nodes.emphasis("", "Proof. "),
                                                 nodes.Text(first.removeprefix("Proof. "))]
            end = nodes.raw("", r"\hfill\ensuremath{\square}\par\medskip", format="latex")
            proof.replace_self([*body, end])


class PrintableCharacters(SphinxPostTransform):
    """In print, spell out the characters that the fonts of the PDF lack."""
    default_priority = 21
    builders = ("latex",)
    spelled = str.maketrans({"ᵢ": "_i", "ⱼ": "_j", "ₖ": "_k", "ₙ": "_n", "ₕ": "_h", "ᵀ": "^T"})

    def run(self, **kwargs):
        for text in list(self.document.findall(nodes.Text)):
            if (printable := text.translate(self.spelled)) != text:
                block = text.parent
                if getattr(block, "rawsource", None) == text:  # else it is not highlighted
                    block.rawsource = printable
                block.replace(text, nodes.Text(printable))


def setup(app):
    app.add_config_value("lecture_digest", "", "env", str)
    app.add_post_transform(PlainProofs)
    app.add_post_transform(PrintableCharacters)
    app.connect("config-inited", key_cache, priority=400)
    app.connect("env-get-outdated", refresh_appendix)
    app.connect("env-before-read-docs", survey)
    app.connect("env-before-read-docs", appendix_last)
    app.connect("env-check-consistency", audit)
    app.connect("source-read", guard)
    app.connect("html-page-context", scripts_once, priority=950)
    app.connect("build-finished", finish, priority=900)
    executors.executenb = survive(executors.executenb)
    app.lecture_broken, app.lecture_ledger = set(), True
    for name, directive in (("ledger", Ledger), ("errata", Errata), ("notation", Notation),
                            ("reproducibility", Reproducibility), ("benchmarks", Benchmarks),
                            ("results-table", ResultsTable), ("results-figure", ResultsFigure),
                            ("scoreboard", Scoreboard)):
        app.add_directive(name, directive)
    app.add_role("result", Result())
    return {"version": "1", "parallel_read_safe": False}
