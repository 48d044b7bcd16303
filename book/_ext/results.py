"""What the pages' runs reached, side by side: tables, figures and the scoreboard of open problems.

A page records rows with `lecturelib.ledger.results`; the directives here gather those of all pages
in this very build, so they stand on pages that are read after the others.
"""
import json
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from appendix import Generated, cell, table
from docutils import nodes
from docutils.parsers.rst import directives
from executions import root, runs
from lecturelib import plots
from sphinx.util.docutils import SphinxRole

KINDS = {"fixed": "fixed", "entropy": "variable, entropy", "bytes": "variable, byte string", "limit": "limit"}
MARKS = {"fixed": ("s", True), "entropy": ("o", False), "bytes": ("o", True), "limit": ("", True)}


@dataclass(frozen=True)
class Row:
    page: str
    scheme: str
    kind: str
    rate: float
    value: float
    error: float = math.nan
    gap: float = math.nan


def rows(app, problem: str) -> list[Row]:
    found = [Row(page, **row) for page, ran in runs(app).items() for record in ran
             if record["type"] == "results" and record["problem"] == problem for row in record["rows"]]
    there = {r.scheme for r in found}                  # what a page measures counts before a benchmark
    found += [r for r in benchmarked(app, problem) if r.scheme not in there]
    if problem == "gaussian":                          # the limit is D = 2^(-2R), so the gap is known
        found = [Row(r.page, r.scheme, r.kind, r.rate, r.value, r.error, r.rate + math.log2(r.value) / 2) for r in found]
    return found


def benchmarked(app, problem: str) -> list[Row]:
    """The records among the committed results of the benchmarks, for runs too long for a page."""
    folder = root(app) / "benchmarks" / "results" if app else Path()
    kept = [row["result"] for path in sorted(folder.glob("*.json")) for row in json.loads(path.read_text("utf-8"))["rows"] if "result" in row]
    return [Row("appendix/reproducibility", **{k: v for k, v in r.items() if k != "problem"}) for r in kept if r["problem"] == problem]


def number(x: float, digits: int = 4) -> str:
    return "–" if math.isnan(x) else f"{x:.{digits}g}" if abs(x) >= 1e-3 or x == 0 else f"{x:.2e}"


def value(r: Row) -> str:
    """The value to the digits that its standard error leaves, which follows in the same units."""
    if math.isnan(r.error) or r.error <= 0:
        return number(r.value, 5)
    places = max(0, 1 - math.floor(math.log10(r.error)))
    return f"{r.value:.{places}f} ± {r.error:.{places}f}"


class ResultsTable(Generated):
    """`{results-table} problem`: every scheme, best first; `:at: 2` keeps the rates within .15 of it."""
    required_arguments = 1
    optional_arguments = 0
    final_argument_whitespace = True
    option_spec = {"at": float, "value": directives.unchanged, "by": directives.unchanged}

    def text(self):
        found = rows(self.env.app, self.arguments[0])
        if (at := self.options.get("at")) is not None:
            found = [r for r in found if abs(r.rate - at) < 0.15]
        if not found:
            return f"No page of this build recorded results for *{self.arguments[0]}*."
        by = self.options.get("by", "gap")
        found.sort(key=lambda r: (math.isnan(getattr(r, by)), getattr(r, by)))
        body = [(cell(r.scheme), KINDS[r.kind], f"{r.rate:.3f}".rstrip("0").rstrip("."), value(r), number(r.gap, 3),
                 f"{{doc}}`/book/{r.page}`") for r in found]
        head = ("Scheme", "Rate", "Bits", cell(self.options.get("value", "value")), "Bits above the limit", "Page")
        return "\n".join(table(head, body, "30 16 9 16 12 17", "results"))


class ResultsFigure(Generated):
    """`{results-figure} problem`: all schemes of a problem in one plane, drawn from the runs.

    `:y:` is `gap` or `value`, `:most:` the largest rate and `:top:` the largest height that is shown; the
    content is the caption.
    """
    required_arguments = 1
    optional_arguments = 0
    has_content = True
    option_spec = {"most": float, "name": directives.unchanged_required, "alt": directives.unchanged_required, "y": directives.unchanged,
                   "ylabel": directives.unchanged_required, "xlabel": directives.unchanged_required, "top": float,
                   "scale": directives.unchanged}

    def text(self):
        y = self.options.get("y", "gap")
        every = rows(self.env.app, self.arguments[0])
        level = [r for r in every if r.kind == "limit"]        # a single one is a level, whatever its rate
        found = [r for r in every if (r.rate <= self.options.get("most", math.inf) or level == [r])
                 and not getattr(r, y) > self.options.get("top", math.inf)]
        folder = Path(self.env.app.outdir).parent / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        stem = folder / self.options["name"]
        draw(found, self.options, stem)
        where = stem.relative_to(root(self.env.app)).as_posix()
        legend = "; ".join(f"{k} {name}" for k, name in enumerate(order(found, y), 1))
        return "\n".join([f"```{{figure}} /{where}.*", f"---\nname: {self.options['name']}",
                          f"alt: {self.options['alt']}", "figclass: drawn", "---", *self.content, f"The numbers are: {legend}.", "```"])


def order(found: list[Row], y: str) -> list[str]:
    """The schemes, each named once, by their best value."""
    best = {}
    for r in found:
        if r.kind != "limit":
            best[r.scheme] = min(getattr(r, y), best.get(r.scheme, math.inf))
    return sorted(best, key=best.get)


def draw(found: list[Row], options, stem: Path) -> None:
    y = options.get("y", "gap")
    with matplotlib.rc_context({**plots.STYLE, "font.size": 13}):
        import matplotlib.pyplot as plt
        fig, ax = plt.subplots(figsize=(6.4, 4.8))
        names = order(found, y)
        for k, name in enumerate(names, 1):
            mine = sorted((r for r in found if r.scheme == name), key=lambda r: r.rate)
            colour = plots.COLOURS[(k - 1) % len(plots.COLOURS)]
            marker, filled = MARKS[mine[0].kind]
            x, height = [r.rate for r in mine], [getattr(r, y) for r in mine]
            ax.plot(x, height, color=colour, linewidth=0.8, alpha=0.6)
            ax.plot(x, height, marker, color=colour, markerfacecolor=colour if filled else "none", markersize=5)
            for a, b in zip(x, height):
                ax.annotate(str(k), (a, b), xytext=(4, 3), textcoords="offset points", fontsize=10, color=colour)
        limits = sorted((r.rate, getattr(r, y)) for r in found if r.kind == "limit")
        if len(limits) == 1:
            ax.axhline(limits[0][1], **plots.LIMIT)
        elif limits:
            plots.limit(ax, *zip(*limits), "limit")
        elif y == "gap":
            ax.axhline(0, **plots.LIMIT)
        if options.get("scale") == "log":
            ax.set_yscale("log")
        elif options.get("scale") == "sqrt":
            ax.set_yscale("function", functions=(lambda v: v.clip(0)**0.5, lambda v: v**2))
            ax.set_ylim(bottom=0)
        if "top" in options:
            ax.set_ylim(top=options["top"])
        ax.set(xlabel=options["xlabel"], ylabel=options["ylabel"])
        fig.savefig(stem.with_suffix(".svg"), metadata={"Date": None})
        fig.savefig(stem.with_suffix(".pdf"), metadata={"CreationDate": None})
        plt.close(fig)


class Result(SphinxRole):
    """`{result}`problem | scheme | gap``: one number of one scheme in a sentence, to three digits; `value` or `rate` in the place of `gap`."""

    def run(self):
        problem, scheme, key = (part.strip() for part in self.text.split("|"))
        found = [r for r in rows(self.env.app, problem) if r.scheme == scheme] if self.env.app.lecture_ledger else []
        if not found and self.env.app.lecture_ledger:
            message = self.inliner.reporter.warning(f"no run recorded the scheme {scheme!r} for {problem!r}", line=self.lineno)
            return [], [message]
        x = getattr(found[0], key) if found else math.nan
        return [nodes.Text(f"{x:.0f}" if x >= 1000 else number(x, 3))], []


class Scoreboard(Generated):
    """The open problems of `[[problem]]` in the ledger's files, each with the best that a page of this build reached."""

    def text(self):
        body = []
        for path in sorted((root(self.env.app) / "book" / "ledger").glob("*.toml")):
            for p in tomllib.loads(path.read_text("utf-8")).get("problem", []):
                found = [r for r in rows(self.env.app, p["records"]) if r.kind in p["kinds"]
                         and p.get("above", 0) <= r.rate <= p.get("below", math.inf) and p.get("scheme", "") in r.scheme]
                key = p["best"]
                found = [r for r in found if not math.isnan(getattr(r, key))]
                best = min(found, key=lambda r: getattr(r, key), default=None)
                if best is None:
                    reached = "no run yet"
                else:
                    reached = f"{number(getattr(best, key), 3)} {p['unit']} ({best.scheme}{f', {number(best.rate, 4)} bits' if best.rate else ''}, {{doc}}`/book/{best.page}`)"
                body.append((f"{{ref}}`{p['id']}`", cell(p["measure"]), reached, cell(p["known"]), cell(p["goal"])))
        return "\n".join(table(("Problem", "What is measured", "Best in this book", "Best known to us elsewhere", "Limit"),
                               body, "18 20 26 20 16", "scoreboard"))
