"""The directives that write the appendix from the ledger's files and from the runs of this build."""
import json
import platform
import tomllib
from importlib.metadata import version

from docutils import nodes
from docutils.statemachine import StringList
from executions import entries, root, runs, sources
from lecturelib import ledger
from sphinx.util.docutils import SphinxDirective


class Generated(SphinxDirective):
    """Replace the directive by the MyST text that `text()` returns."""
    has_content = False
    optional_arguments = 1

    def run(self):
        lines = self.text().splitlines() if self.env.app.lecture_ledger else []
        self.env.note_dependency(__file__)
        for path in (root(self.env.app) / "book" / "ledger").iterdir():
            self.env.note_dependency(str(path))
        holder = self.parse(lines)
        return holder

    def parse(self, lines):
        node = nodes.Element()
        self.state.nested_parse(StringList(lines, source="ledger"), self.content_offset, node)
        return node.children


def cell(text: str) -> str:
    return " ".join(text.split())


def math(text: str) -> str:
    """Bare math, or prose with $math$ in it, as inline MyST."""
    text = cell(text)
    if not text:
        return ""
    return text if "$" in text else f"${text}$"


def table(header, rows, widths, classes="") -> list[str]:
    if not rows:
        return []
    out = ["````{list-table}", ":header-rows: 1", f":widths: {widths}"]
    out.append(f":class: longtable {classes}")
    out.append("")
    for row in [header, *rows]:
        out += [f"{'*' if k == 0 else ' '} - {value}" for k, value in enumerate(row)]
    return [*out, "````", ""]


def reference(entry: ledger.Entry, built: dict) -> str:
    if entry.page not in built:
        return "page to come"
    if entry.kind == "equation":
        return f"{{eq}}`{entry.id}`"
    if entry.kind == "remark" or entry.verdict == "to come":
        return f"{{doc}}`/book/{entry.page}`"
    return f"{{prf:ref}}`{entry.id}`"


PARTS = {"pde": "Part I: neural networks for PDEs", "quantization": "Part II: quantization"}


class Ledger(Generated):
    def text(self):
        app = self.env.app
        built, ran = sources(app), runs(app)
        declared = entries(app)
        items = (root(app) / "book" / "ledger" / "numbered.txt").read_text("utf-8").splitlines()
        numbered = [e for e in declared if e.notes in items]
        done = [e for e in numbered if e.verdict != "to come"]
        ours = sum(e.verdict == "ours" for e in declared)
        lines = [f"Of the {len(numbered)} numbered items of the notes, **{len(done)} are done**: "
                 f"{sum(e.verdict == 'holds' for e in done)} hold as printed, "
                 f"{sum(e.verdict == 'corrected' for e in done)} are corrected and "
                 f"{sum(e.verdict == 'definition' for e in done)} are definitions.",
                 f"The pages add {ours} statements of their own.", ""]
        for part, title in PARTS.items():
            rows = []
            for e in declared:
                if not e.page.startswith(part + "/"):
                    continue
                checks = [r for r in ran.get(e.page, []) if r.get("label") == e.id]
                how = sorted({r["how"] for r in checks if r["type"] == "check"})
                if any(r["type"] == "counterexample" for r in checks):
                    how.append("counterexample")
                rows.append((reference(e, built), e.notes or "–", cell(e.title),
                             "page to come" if e.verdict == "to come" else e.verdict,
                             ", ".join(how) or "–"))
            if rows:
                lines += [f"## {title}", ""]
                lines += table(("Here", "In the notes", "Statement", "Verdict", "Checked by"),
                               rows, "16 16 36 15 17", "ledger")
        return "\n".join(lines)


class Errata(Generated):
    def text(self):
        app = self.env.app
        built, ran = sources(app), runs(app)
        lines = []
        for part, title in PARTS.items():
            wrong = [e for e in entries(app) if e.verdict == "corrected"
                     and e.page.startswith(part + "/")]
            if wrong:
                lines += [f"## {title}", ""]
            for e in wrong:
                where = e.notes.strip("()") if e.notes.startswith("(") else e.notes
                head = f"Equation ({where})" if e.notes.startswith("(") else \
                    e.notes[0].upper() + e.notes[1:]
                lines += [f"### {head}: {cell(e.title)}", "",
                          f"Printed: {math(e.printed)}", "", f"Here: {math(e.ours)}", "",
                          cell(e.why), "", f"Our statement: {reference(e, built)}.", ""]
                told = [r["evidence"] for r in ran.get(e.page, [])
                        if r["type"] == "check" and r["label"] == e.id and r["refutes"]]
                lines += [f"The run that tells them apart: {text}." .replace("..", ".") + "\n"
                          for text in told]
        return "\n".join(lines)


class Notation(Generated):
    def text(self):
        app = self.env.app
        built = sources(app)
        rows = []
        for path in sorted((root(app) / "book" / "ledger").glob("*.toml")):
            for s in tomllib.loads(path.read_text("utf-8")).get("symbol", []):
                use = f"{{doc}}`/book/{s['page']}`" if s["page"] in built else "page to come"
                rows.append((math(s["symbol"]), cell(s["meaning"]), cell(s["shape"]),
                             f"`{s['code'].removeprefix('lecturelib.')}`" if s["code"] else "–",
                             use))
        return "\n".join(table(("Symbol", "Meaning", "Shape or units", "In `lecturelib`",
                                "First use"), rows, "12 28 20 22 18", "notation"))


class Reproducibility(Generated):
    def text(self):
        app = self.env.app
        rows, seen = [], {}
        for name, ran in runs(app).items():
            done = [r for r in ran if r["type"] == "run"]
            if not done:
                continue
            r = done[-1]
            seen.update(r["versions"])
            rows.append((f"{{doc}}`/book/{name}`", f"{r['seconds']:.1f}",
                         f"{r['peak_bytes'] / 1e6:.0f}", r["device"], r["threads"],
                         ", ".join(map(str, r["seeds"])) or "–", r["claims"],
                         sum(x["type"] in ("check", "counterexample") for x in ran)))
        lines = table(("Page", "Time (s)", "Peak memory (MB)", "Device", "Threads", "Seeds",
                       "Claims", "Ledger checks"), rows, "28 9 12 10 10 11 9 11", "runs")
        lines += [f"Digest of the library and the pinned versions: `{app.config.lecture_digest}`.",
                  "", f"Machine: {platform.machine()}, {platform.system()}.", ""]
        names = ("python", "torch", "numpy")
        lines += [", ".join(f"{n} {seen[n]}" for n in names if n in seen)
                  + "".join(f", {p} {version(p)}" for p in
                            ("scipy", "sympy", "matplotlib", "jupyter-book", "sphinx", "myst-nb"))
                  + "."]
        return "\n".join(lines)


class Benchmarks(Generated):
    """The committed results of `make bench`, one table a module."""

    def text(self):
        lines = []
        for path in sorted((root(self.env.app) / "benchmarks" / "results").glob("*.json")):
            self.env.note_dependency(str(path))
            stored = json.loads(path.read_text("utf-8"))
            m = stored["machine"]
            where = f"{m['gpu']}, " if m["gpu"] else ""
            lines += [f"**{path.stem}**: {where}{m['cpu']}, {m['threads']} threads, "
                      f"torch {m['torch']}, {m['date']}.", ""]
            rows = [(cell(r["kernel"]), cell(r["ours"]), cell(r["peer"]), f"{r['ratio']:.3g}",
                     "{:.3g} to {:.3g}".format(*r["spread"]),
                     "; ".join(cell(text) for text in (r["agreement"], r["note"]) if text))
                    for r in stored["rows"]]
            lines += table(("Kernel", "Ours", "Peer or limit", "Ratio", "Spread", "Agreement; remarks"),
                           rows, "23 13 19 8 12 25", "runs benchmarks")
        return "\n".join(lines)
