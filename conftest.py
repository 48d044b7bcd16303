"""Collect the MyST pages for nbval: each code cell is a test, and so is each page's ledger."""
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from queue import Empty

import jupytext
import nbformat
import pytest
from hypothesis import settings
from nbval.plugin import IPyNbCell, IPyNbFile, coalesce_streams, find_metadata_tags

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT / "book" / "_ext"))

import pages  # noqa: E402  (book/_ext is not a package)
from lecturelib import ledger  # noqa: E402

FORMAT = 2
MEMORY_LIMIT = 1.5e9


def pytest_addoption(parser):
    parser.addoption("--record", action="store_true",
                     help="run the pages and record the outputs of their checked cells")
    parser.addoption("--device", default="cpu",
                     help="where tests/unit/test_device.py runs the kernels, say cuda")
    parser.addoption("--examples", type=int, default=1, metavar="K",
                     help="try K times as many examples in each property test (`make nightly`)")


def pytest_configure(config):
    settings.register_profile("the same examples in every run", derandomize=True, deadline=None)
    if config.getoption("--examples") == 1:
        settings.load_profile("the same examples in every run")


@pytest.hookimpl(trylast=True)                          # after the markers of Hypothesis
def pytest_collection_modifyitems(config, items):
    if unstable := [item.nodeid for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"the address of an object names a test, so each process names it differently: {unstable[0]}")
    factor = config.getoption("--examples")
    if factor > 1:
        for test in {item.function for item in items if item.get_closest_marker("hypothesis")}:
            few = test._hypothesis_internal_use_settings
            test._hypothesis_internal_use_settings = settings(few, max_examples=factor * few.max_examples)


def pytest_collect_file(file_path, parent):
    book = ROOT / "book"
    if file_path.suffix == ".md" and book in file_path.parents:
        if pages.is_notebook(file_path.read_text("utf-8")):
            return Page.from_parent(parent, path=file_path)
    return None


class PageError(Exception):
    """A fault of a page that no single cell shows."""


def seal(path: Path, cells: dict) -> str:
    """SHA-256 of the recorded cells and of the page that they belong to."""
    return hashlib.sha256(json.dumps([path.parent.name, path.stem, cells], sort_keys=True).encode()).hexdigest()


def read_reference(path: Path) -> dict:
    """Recorded outputs by source key; ValueError naming the file if it is not one of ours."""
    try:
        stored = json.loads(path.read_text("utf-8"))
        newer = stored["format"] > FORMAT
        if not newer:
            if stored["sha256"] != seal(path, stored["cells"]):
                raise ValueError("its checksum is that of other outputs or of another page")
            return {key: {"source": cell["source"], "outputs": nbformat.from_dict(cell["outputs"])}
                    for key, cell in stored["cells"].items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path.relative_to(ROOT)}: damaged; restore it or run `make record`: "
                         f"{error!r}") from error
    raise ValueError(f"{path.relative_to(ROOT)}: format {stored['format']} is newer than {FORMAT}; "
                     "update the book's code")


class Page(IPyNbFile):
    broken = None
    nb = None

    def collect(self):
        self.page = self.path.relative_to(ROOT / "book").with_suffix("").as_posix()
        self.reference = ROOT / "tests" / "reference" / f"{self.page}.json"
        self.record = self.config.option.record
        self.recorded = {}
        try:
            if fault := pages.unreadable(self.path.read_text("utf-8")):
                raise ValueError(f"book/{self.page}.md: {fault}")
            if self.reference.exists() and not self.record:
                self.recorded = read_reference(self.reference)
        except ValueError as error:  # an item that fails; a raise here would stop all other pages
            yield PageUnreadable.from_parent(self, name="unreadable", fault=str(error))
            return
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
            cell.outputs = stored["outputs"] if stored else []
            cell.execution_count = 1  # nbval compares nothing where this is None
            self.cells.append(item)
        yield from self.cells
        yield PageReferences.from_parent(self, name="references")
        yield PageLedger.from_parent(self, name="ledger")

    def setup(self):
        if self.nb is None:
            return
        super().setup()
        wait = self.kernel.await_reply

        def await_reply(msg_id, timeout=None):
            """nbval's own waits out its whole timeout on a kernel that has died."""
            end = time.monotonic() + (timeout or float("inf"))
            while True:
                try:
                    return wait(msg_id, timeout=1)
                except Empty:
                    if not self.kernel.is_alive():
                        raise PageError("the kernel died; was there memory enough?") from None
                    if time.monotonic() > end:
                        raise

        self.kernel.await_reply = await_reply


class PageCell(IPyNbCell):
    def runtest(self):
        if self.parent.broken is not None:
            pytest.skip(f"cell {self.parent.broken} of this page failed")
        try:
            key = pages.source_key(self.cell.source)
            if self.options["check"] and key not in self.parent.recorded:
                raise PageError(
                    f"cell {self.cell_num} is tagged nbval-check-output, but "
                    f"{self.parent.reference.relative_to(ROOT)} has no recorded output for its "
                    "present source: run `make record` and read the difference")
            super().runtest()
            if self.tagged and not self.outputs():
                raise PageError(f"cell {self.cell_num} is tagged nbval-check-output, but it has no "
                                "output to compare: let it print, or take the tag away")
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


class PageUnreadable(PageItem):
    """Stands for the cells of a page that cannot be read."""

    def __init__(self, *, fault, **kwargs):
        super().__init__(**kwargs)
        self.fault = fault

    def check(self):
        raise PageError(self.fault)


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
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"format": FORMAT, "sha256": seal(path, cells), "cells": cells}, indent=1, ensure_ascii=False)
                    + "\n", "utf-8")
    os.replace(part, path)


class PageLedger(PageItem):
    def check(self):
        page = self.parent
        scan = pages.scan(page.path.read_text("utf-8"))
        try:
            declared = ledger.load(ROOT / "book" / "ledger")
        except ValueError as error:
            raise PageError(str(error)) from error
        ran = ledger.outputs_records(out for cell in page.cells for out in cell.outputs())
        faults = [f"{page.page}, line {line}: {what}" for line, what in scan.bare]
        faults += ledger.audit(page.page, [x.name for x in scan.labels],
                               declared, ran, scan.claims)
        limit = page.nb.metadata.get("memory_limit", MEMORY_LIMIT)
        faults += [f"{page.page}: peak memory {r['peak_bytes'] / 1e9:.2f} GB is over "
                   f"{limit / 1e9:.1f} GB" for r in ran
                   if r["type"] == "run" and r["peak_bytes"] > limit]
        if faults:
            raise PageError("\n".join(faults))
