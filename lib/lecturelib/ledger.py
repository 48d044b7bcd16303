"""The ledger: every numbered statement, its verdict, and the run that decides it.

A page *records* (`check`, `counterexample`, `claim`, `close`); a TOML file beside the pages
*declares* (`Entry`, `load`).  `audit` joins the two: it lists whatever is declared and did not
run, ran and is not declared, or is called corrected although the printed version never failed.
"""
import html
import math
import platform
import re
import sys
import time
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path

KEY = "lecturelib"  # where an output's metadata holds a record
VERDICTS = ("holds", "corrected", "definition", "ours", "to come")
KINDS = ("equation", "theorem", "definition", "problem", "remark")
HOW = ("symbolic", "exact", "quadrature", "numerical", "monte carlo", "rate")
RATE_TYPES = ("fixed", "entropy", "bytes", "limit")

_records: list[dict] = []
_start = time.perf_counter()


# ------------------------------------------------------------------------------- recording
def _truth(name: str, value) -> bool:
    """A comparison's result; anything else (a tuple, a number, an array) is an author's slip."""
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be one bool, the result of a comparison; got {value!r}")
    return value


def _record(text: str, **record) -> None:
    if "$" in text:
        raise ValueError(f"evidence is shown as plain text, without TeX between dollars; got {text!r}")
    _records.append(record)
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        return
    if get_ipython() is None:
        return
    markup = f'<p class="ledger-tick"><span aria-hidden="true">✓</span> {html.escape(text)}</p>'
    display({"text/html": markup, "text/plain": f"✓ {text}"}, metadata={KEY: record}, raw=True)


def check(label: str, holds, evidence: str, *, how: str, printed=None) -> None:
    """Record that the statement `label` was checked in this run.

    Parameters
    ----------
    label : the statement's label in the page (`eq-...`, `thm-...`) or, for an erratum of the
        text that has no label, its id in the ledger.
    holds : bool, whether our statement passed; asserted.
    evidence : one line of plain text (no TeX) for the reader, with the measured numbers.
    how : one of `symbolic`, `exact`, `quadrature`, `numerical`, `monte carlo` (give the
        confidence in the evidence), `rate`.
    printed : bool, whether the version printed in the notes passed the same test; asserted to
        be False.  Needed where the ledger says *corrected*, left out elsewhere.

    Raises
    ------
    AssertionError if `holds` is False or `printed` is True; ValueError on anything but bools.

    >>> check("eq-sum", 1 + 1 == 2, "1 + 1 = 2", how="exact")
    >>> check("eq-sum", 1 + 1 == 2, "", how="exact", printed=True)
    Traceback (most recent call last):
    ...
    AssertionError: eq-sum: the printed version passes as well, so it is not refuted ()
    """
    if how not in HOW:
        raise ValueError(f"how must be one of {', '.join(HOW)}; got {how!r}")
    assert _truth("holds", holds), f"{label}: does not hold ({evidence})"
    if printed is not None:
        assert not _truth("printed", printed), (
            f"{label}: the printed version passes as well, so it is not refuted ({evidence})")
    _record(evidence, type="check", label=label, how=how,
            refutes=printed is not None, evidence=evidence)


def counterexample(label: str, holds, evidence: str) -> None:
    """Record that theorem `label` fails once a hypothesis is dropped: `holds` must be False."""
    assert not _truth("holds", holds), f"{label}: still holds without the hypothesis ({evidence})"
    _record(evidence, type="counterexample", label=label, evidence=evidence)


def claim(number: int, holds, evidence: str) -> None:
    """Tick claim `number` of the page's list “What this page shows”; asserted."""
    assert _truth("holds", holds), f"claim {number} does not hold ({evidence})"
    _record(f"Claim {number}: {evidence}", type="claim", number=int(number), evidence=evidence)


def results(problem: str, rows: Iterable[dict]) -> None:
    """Record how well schemes did on a `problem`; the tables and figures of all pages draw on it.

    Each row is a dict with the keys `scheme` (its name, the same on every page), `rate` (bits per
    number, everything that the decoder needs counted), `value` (what the problem measures, such as
    the mean square error), `kind` (one of `fixed`: every number takes the same room; `entropy`: the
    entropy of the indices; `bytes`: the length of a string that was decoded; `limit`: a theorem's)
    and, where they make sense, `error` (one standard error of `value`) and `gap` (bits above the
    theorem's limit).  Raises ValueError for other keys, kinds, and numbers that are not finite.

    >>> results("gaussian", [dict(scheme="Lloyd–Max", rate=2, value=0.11748, kind="fixed")])
    >>> results("gaussian", [dict(scheme="?", rate=2, value=float("nan"), kind="fixed")])
    Traceback (most recent call last):
    ...
    ValueError: rows: value of '?' must be a finite number; got nan
    """
    kept = []
    for row in rows:
        if not {"scheme", "rate", "value", "kind"} <= set(row) <= {"scheme", "rate", "value", "kind", "error", "gap"}:
            raise ValueError(f"rows must have the keys scheme, rate, value, kind and may have error, gap; got {set(row)}")
        if row["kind"] not in RATE_TYPES:
            raise ValueError(f"rows: kind must be one of {', '.join(RATE_TYPES)}; got {row['kind']!r}")
        numbers = {k: float(v) for k, v in row.items() if k not in ("scheme", "kind")}
        for k, v in numbers.items():
            if not math.isfinite(v):
                raise ValueError(f"rows: {k} of {row['scheme']!r} must be a finite number; got {v}")
        kept.append({"scheme": str(row["scheme"]), "kind": row["kind"], **numbers})
    _record(f"{len(kept)} results recorded for the book's tables", type="results", problem=str(problem), rows=kept)


def peak_memory() -> int:
    """Peak resident memory of this process, in bytes."""
    if sys.platform == "win32":
        import psutil
        return psutil.Process().memory_info().peak_wset
    status = Path("/proc/self/status")
    if status.exists():                                    # ru_maxrss would count the process that started this one
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def close(claims: int, seeds: Iterable[int] = (), device: str = "cpu") -> None:
    """Last cell of a page: every claim 1…`claims` was ticked; record what the run used.

    Raises AssertionError naming the claims without a tick.
    """
    ticked = {r["number"] for r in _records if r["type"] == "claim"}
    wanted = set(range(1, claims + 1))
    assert ticked == wanted, f"claims without a tick: {sorted(wanted - ticked)}, " \
                             f"ticks without a claim: {sorted(ticked - wanted)}"
    torch = sys.modules.get("torch")  # a page that does without it need not load it
    checks = sum(r["type"] in ("check", "counterexample") for r in _records)
    versions = {"python": platform.python_version(), "torch": version("torch"),
                "numpy": version("numpy")}
    _record(f"all {claims} claims of this page ticked, {checks} ledger checks passed",
            type="run", claims=claims, seconds=time.perf_counter() - _start,
            peak_bytes=peak_memory(), seeds=[int(s) for s in seeds], device=str(device),
            threads=torch.get_num_threads() if torch else 1, versions=versions)


def records(notebook) -> list[dict]:
    """The records in the outputs of an executed notebook, in order."""
    return outputs_records(out for cell in notebook.cells if cell.cell_type == "code"
                           for out in cell.get("outputs", ()))


def outputs_records(outputs) -> list[dict]:
    """The records among notebook outputs, in order."""
    return [out["metadata"][KEY] for out in outputs if KEY in out.get("metadata", {})]


# ------------------------------------------------------------------------------ declaration
@dataclass(frozen=True)
class Entry:
    """One statement.  `id` is its label in the page; `notes` its place in the source notes."""
    id: str
    page: str
    kind: str
    verdict: str
    title: str
    notes: str = ""
    printed: str = ""
    ours: str = ""
    why: str = ""
    sharp: str = ""
    drops: str = ""
    source: str = field(default="", compare=False)

    def __post_init__(self):
        where = f"{self.source}: entry {self.id!r}"
        if self.verdict not in VERDICTS:
            raise ValueError(f"{where}: verdict must be one of {VERDICTS}; got {self.verdict!r}")
        if self.kind not in KINDS:
            raise ValueError(f"{where}: kind must be one of {KINDS}; got {self.kind!r}")
        needs = {"corrected": ("notes", "printed", "ours", "why"), "holds": ("notes",),
                 "to come": ("notes",)}.get(self.verdict, ())
        if self.kind == "theorem" and self.verdict != "to come":
            needs += ("sharp", "drops")
        for name in needs:
            if not getattr(self, name):
                raise ValueError(f"{where}: a {self.verdict} {self.kind} needs {name!r}")


def load(folder) -> list[Entry]:
    """All entries of the TOML files in `folder`, in file and then written order.

    Raises ValueError naming the file for unknown keys, missing keys, or an id given twice.
    """
    known = {f.name for f in fields(Entry)} - {"source"}
    entries: dict[str, Entry] = {}
    for path in sorted(Path(folder).glob("*.toml")):
        try:
            rows = tomllib.loads(path.read_text("utf-8")).get("entry", [])
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{path}: not valid TOML: {error}") from error
        for row in rows:
            if unknown := set(row) - known:
                raise ValueError(f"{path}: entry {row.get('id')!r} has unknown keys {unknown}")
            try:
                entry = Entry(**row, source=str(path))
            except TypeError as error:
                raise ValueError(f"{path}: entry {row.get('id')!r}: {error}") from error
            if entry.id in entries:
                raise ValueError(f"{path}: entry {entry.id!r} is also in {entries[entry.id].source}")
            entries[entry.id] = entry
    return list(entries.values())


def audit(page: str, labels: Iterable[str], entries: Iterable[Entry],
          ran: Iterable[dict], claims: int | None = None) -> list[str]:
    """What is wrong between a page's labels, its ledger entries and the records of its run.

    `labels` are those of the displayed equations and theorems in the page's source; `ran` are
    the records of one execution; `claims` is the number of claims that the page lists.  Returns
    one sentence per fault; an empty list is a pass.
    """
    labels, ran = list(labels), list(ran)
    mine = {e.id: e for e in entries if e.page == page}
    checks: dict[str, list[dict]] = {}
    for r in ran:
        if r["type"] == "check":
            checks.setdefault(r["label"], []).append(r)
    faults = [f"{page}: label {x!r} has no ledger entry" for x in labels if x not in mine]
    faults += [f"{page}: check of {x!r} has no ledger entry" for x in checks if x not in mine]
    counter = {r["label"] for r in ran if r["type"] == "counterexample"}
    for e in mine.values():
        if e.verdict == "to come":
            faults.append(f"{page}: entry {e.id!r} is still 'to come', but the page exists")
            continue
        if e.kind != "remark" and e.id not in labels:
            faults.append(f"{page}: ledger entry {e.id!r} has no such label in the page")
        if e.id not in checks:
            faults.append(f"{page}: no check of {e.id!r} ran")
        elif e.verdict == "corrected" and not any(r["refutes"] for r in checks[e.id]):
            faults.append(f"{page}: {e.id!r} is called corrected, but no run shows the printed "
                          "version failing")
        if e.kind == "theorem" and not e.drops.startswith("nothing") and e.id not in counter:
            faults.append(f"{page}: theorem {e.id!r} has no run with a hypothesis dropped")
    closed = [r for r in ran if r["type"] == "run"]
    if not closed:
        faults.append(f"{page}: ledger.close(...) did not run")
    elif claims is not None and closed[-1]["claims"] != claims:
        faults.append(f"{page}: lists {claims} claims, but ledger.close(claims="
                      f"{closed[-1]['claims']}) ran")
    return faults


def strays(entries: Iterable[Entry], pages: Iterable[str]) -> list[str]:
    """One sentence for each entry, not `to come`, of a page that does not exist."""
    pages = set(pages)
    return [f"{Path(e.source).name}: entry {e.id!r} is of {e.page!r}, and there is no such page"
            for e in entries if e.verdict != "to come" and e.page not in pages]
