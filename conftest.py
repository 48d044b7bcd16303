"""Collect the MyST pages for nbval: each code cell is a test, and so is each page's ledger."""
import json
import os
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbval.plugin import IPyNbCell, IPyNbFile, coalesce_streams, find_metadata_tags

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT / "book" / "_ext"))

import pages  # noqa: E402  (book/_ext is not a package)
from lecturelib import ledger  # noqa: E402

FORMAT = 1
MEMORY_LIMIT = 1.5e9


def pytest_addoption(parser):
    parser.addoption("--record", action="store_true",
                     help="run the pages and record the outputs of their checked cells")
    parser.addoption("--device", default="cpu",
                     help="where tests/unit/test_device.py runs the kernels, say cuda")


def pytest_collect_file(file_path, parent):
    book = ROOT / "book"
    if file_path.suffix == ".md" and book in file_path.parents:
        if pages.is_notebook(file_path.read_text("utf-8")):
            return Page.from_parent(parent, path=file_path)
    return None


class PageError(Exception):
    """A fault of a page that no single cell shows."""


def read_reference(path: Path) -> dict:
    """Recorded outputs by source key; ValueError naming the file if it is not one of ours."""
    try:
        stored = json.loads(path.read_text("utf-8"))
        if stored["format"] > FORMAT:
            raise ValueError(f"{path}: format {stored['format']} is newer than {FORMAT}; "
                             "update the book's code")
        return stored["cells"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: damaged; restore it or run `make record`: {error}") from error


class Page(IPyNbFile):
    broken = None

    def collect(self):
        self.page = self.path.relative_to(ROOT / "book").with_suffix("").as_posix()
        self.reference = ROOT / "tests" / "reference" / f"{self.page}.json"
        self.record = self.config.option.record
        self.recorded = {}
        if self.reference.exists() and not self.record:
            self.recorded = read_reference(self.reference)
        self.nb = jupytext.read(self.path, fmt="md:myst")
        self.cells = []
        code = [c for c in self.nb.cells if c.cell_type == "code"]
        for number, cell in enumerate(code):
            options = {"check": False, "skip": False, "check_exception": False}
            options.update(find_metadata_tags(cell.metadata))
            item = PageCell.from_parent(self, name=f"Cell {number}", cell_num=number, cell=cell,
                                        options=options)
            item.tagged = options["check"]
            options["check"] = item.tagged and not self.record
            stored = self.recorded.get(pages.source_key(cell.source))
            cell.outputs = nbformat.from_dict(stored["outputs"]) if stored else []
            cell.execution_count = 1  # nbval compares nothing where this is None
            self.cells.append(item)
        yield from self.cells
        yield PageReferences.from_parent(self, name="references")
        yield PageLedger.from_parent(self, name="ledger")


class PageCell(IPyNbCell):
    def runtest(self):
        if self.parent.broken is not None:
            pytest.skip(f"cell {self.parent.broken} of this page failed")
        try:
            if self.options["check"] and pages.source_key(self.cell.source) not in self.parent.recorded:
                raise PageError(
                    f"cell {self.cell_num} is tagged nbval-check-output, but "
                    f"{self.parent.reference.relative_to(ROOT)} has no recorded output for its "
                    "present source: run `make record` and read the difference")
            super().runtest()
        except BaseException:
            self.parent.broken = self.cell_num
            raise

    def repr_failure(self, excinfo):
        if isinstance(excinfo.value, PageError):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def outputs(self):
        return coalesce_streams(self.test_outputs or [])


class PageItem(pytest.Item):
    """A test of the whole page, run after its cells."""

    def runtest(self):
        if self.parent.broken is not None:
            pytest.skip(f"cell {self.parent.broken} of this page failed")
        self.check()

    def repr_failure(self, excinfo):
        if isinstance(excinfo.value, PageError):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def reportinfo(self):
        return self.path, 0, f"{self.parent.page}::{self.name}"


class PageReferences(PageItem):
    def check(self):
        page = self.parent
        tagged = {pages.source_key(c.cell.source): c for c in page.cells if c.tagged}
        if page.record:
            return write_reference(page.reference, tagged)
        if stale := set(page.recorded) - set(tagged):
            first = page.recorded[min(stale)]["source"].strip().splitlines()[0]
            raise PageError(f"{page.reference.relative_to(ROOT)}: {len(stale)} recorded outputs "
                            f"belong to no checked cell (one began with {first!r}): "
                            "run `make record`")


def write_reference(path: Path, tagged: dict) -> None:
    """Write recorded outputs whole or not at all."""
    if not tagged:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = {key: {"source": item.cell.source, "outputs": item.outputs()}
             for key, item in tagged.items()}
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8",
                                     suffix=".part") as file:
        json.dump({"format": FORMAT, "cells": cells}, file, indent=1, ensure_ascii=False)
        file.write("\n")
    os.replace(file.name, path)


class PageLedger(PageItem):
    def check(self):
        page = self.parent
        scan = pages.scan(page.path.read_text("utf-8"))
        ran = ledger.outputs_records(out for cell in page.cells for out in cell.outputs())
        faults = [f"{page.page}, line {line}: {what}" for line, what in scan.bare]
        faults += ledger.audit(page.page, [x.name for x in scan.labels],
                               ledger.load(ROOT / "book" / "ledger"), ran)
        limit = page.nb.metadata.get("memory_limit", MEMORY_LIMIT)
        faults += [f"{page.page}: peak memory {r['peak_bytes'] / 1e9:.2f} GB is over "
                   f"{limit / 1e9:.1f} GB" for r in ran
                   if r["type"] == "run" and r["peak_bytes"] > limit]
        if faults:
            raise PageError("\n".join(faults))
