"""What the build, the tests and the recorder need to know of a page's source."""
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml

STATEMENTS = {"theorem", "definition", "proposition", "lemma", "corollary", "axiom", "criterion"}
ASIDES = {"admonition", "note", "tip", "hint", "warning", "caution", "attention", "danger",
          "error", "important", "seealso", "dropdown", "toggle", "margin", "sidebar", "exercise",
          "solution"}
LITERAL = {"literal", "code-cell", "code-block", "code", "sourcecode", "literalinclude", "raw",
           "math", "eval-rst", "parsed-literal"}
OPENING = re.compile(r"\s*(`{3,}|~{3,}|:{3,})\s*(?:\{([\w:+-]+)\})?")
OPTION = re.compile(r"\s*:[\w-]+:")
NAME = re.compile(r"\s*:?(?:label|name):\s*(\S+)\s*$")
TARGET = re.compile(r"\(([\w:.-]+)\)=\s*$")
DOLLARS = re.compile(r"(?<!\\)\$\$")
TAIL = re.compile(r"\$\$\s*\(([\w:.-]+)\)\s*$")
AMS = re.compile(r"\s*\\begin\{((?:equation|align|alignat|flalign|gather|multline|eqnarray)\*?)\}")
HEADER = re.compile(r"---[ \t]*\n(.*?)\n---[ \t]*(?:\n|$)", re.S)


@dataclass(frozen=True)
class Label:
    name: str
    line: int


@dataclass(frozen=True)
class Scan:
    """What a page's source holds: `labels` of displayed equations and of statements, `names` of
    everything that can be referred to, `bare` what lacks a label, as (line, what), the number of
    `claims` in its list “What this page shows”, and the number of code `cells`."""
    labels: tuple[Label, ...]
    names: tuple[Label, ...]
    bare: tuple[tuple[int, str], ...]
    claims: int
    cells: int


@dataclass
class Fence:
    mark: str
    kind: str
    line: int
    label: str = ""
    options: str = "first"  # then colon or yaml, then done
    closing: re.Pattern = field(init=False)

    def __post_init__(self):
        self.closing = re.compile(r"\s*%s{%d,}\s*$" % (re.escape(self.mark[0]), len(self.mark)))

    @property
    def statement(self) -> bool:
        return self.kind.startswith("prf:") and self.kind[4:] in STATEMENTS

    @property
    def aside(self) -> bool:
        return self.kind.startswith("prf:") or self.kind in ASIDES

    def option(self, line: str) -> bool:
        """Whether the line belongs to the options at the fence's head; notes a label there."""
        if self.options == "first":
            if line.strip() == "---":
                self.options = "yaml"
                return True
            self.options = "colon" if OPTION.match(line) else "done"
        if self.options == "colon" and not OPTION.match(line):
            self.options = "done"
        if self.options == "done":
            return False
        if self.options == "yaml" and line.strip() == "---":
            self.options = "done"
        elif found := NAME.match(line):
            self.label = found.group(1)
        return True


def scan(text: str) -> Scan:
    """Find every displayed equation, every theorem-like statement and every name of a MyST page.

    An equation in the running text must carry a label; inside statements, proofs, admonitions,
    exercises and solutions it may go without, because those are referred to as a whole.
    """
    labels, names, bare = [], [], []
    stack: list[Fence] = []
    gated = claims = cells = 0
    listing = False
    display = None  # line on which an open $$ began
    for number, line in enumerate(text.splitlines(), 1):
        top = stack[-1] if stack else None
        loose = not gated and not any(f.aside for f in stack)
        if top and top.closing.match(line):
            stack.pop()
            if top.label:
                names.append(Label(top.label, top.line))
            if top.kind == "math" or top.statement:
                if top.label:
                    labels.append(names[-1])
                elif top.statement or loose:
                    bare.append((top.line, f"{{{top.kind}}} without a label"))
            continue
        if top and (top.option(line) or top.kind in LITERAL):
            continue
        if display is None and (opened := OPENING.match(line)):
            fence = Fence(opened.group(1), opened.group(2) or "literal", number)
            gated += fence.kind.endswith("-start") - fence.kind.endswith("-end")
            if fence.kind == "code-cell":
                cells += 1
                if stack:
                    bare.append((number, "code-cell inside a directive, where it is not executed"))
            stack.append(fence)
            continue
        if found := TARGET.match(line):
            names.append(Label(found.group(1), number))
        if display is None and (found := AMS.match(line)):
            bare.append((number, f"{found.group(1)} outside a {{math}} block with a label"))
        if line.startswith("#"):
            listing = line.strip() == "## What this page shows"
        claims += listing and re.match(r"\d+[.)] ", line) is not None
        for k, mark in enumerate(found := DOLLARS.findall(re.sub(r"`[^`]*`", "", line)), 1):
            if display is None:
                display = number
                continue
            start, display = display, None
            tail = TAIL.search(line) if k == len(found) else None
            if tail:
                names.append(Label(tail.group(1), start))
                labels.append(names[-1])
            elif loose:
                bare.append((start, "$$ without a label"))
    return Scan(tuple(labels), tuple(names), tuple(bare), claims, cells)


def is_notebook(text: str) -> bool:
    """Whether the page has code cells, or the header of a page that has."""
    return bool(re.match(r"---.*^kernelspec:", text, re.S | re.M)) or scan(text).cells > 0


def unreadable(text: str) -> str:
    """Why a notebook page cannot be read, and what to do; empty if it can."""
    import jupytext
    from jupytext.myst import MystMetadataParsingError
    if not is_notebook(text):
        return ""
    remedy = "copy the block between the two --- lines from another page"
    if not (header := HEADER.match(text)):
        return f"code cells, but no closed YAML header at the top of the page: {remedy}"
    try:
        found = yaml.safe_load(header.group(1)) or {}
        if found["jupytext"]["text_representation"]["format_name"] != "myst":
            raise KeyError("format_name: myst")
        found["kernelspec"]["name"]
    except yaml.YAMLError as error:
        return f"the YAML header cannot be read: {' '.join(str(error).split())}; {remedy}"
    except (KeyError, TypeError) as error:
        return f"the YAML header lacks {error}: {remedy}"
    try:
        jupytext.reads(text, fmt="md:myst")
    except (MystMetadataParsingError, ValueError, yaml.YAMLError) as error:
        return f"the page cannot be read: {' '.join(str(error).split())}"
    return ""


def repeated(book: Path) -> dict[Path, str]:
    """The pages that use a label a second time, and which labels and where."""
    first, twice = {}, {}
    for path in sources(book):
        name = path.relative_to(book.parent).as_posix()
        for label in scan(path.read_text("utf-8")).names:
            here = f"{name}, line {label.line}"
            if label.name in first:
                twice.setdefault(path, []).append(
                    f"label {label.name!r} of line {label.line} is already used in "
                    f"{first[label.name]}: rename one of the two")
            else:
                first[label.name] = here
    return {path: "; ".join(faults) for path, faults in twice.items()}


def sources(book: Path) -> list[Path]:
    """The MyST pages below `book`, sorted; folders whose name begins with _ or . are left out."""
    return [p for p in sorted(book.rglob("*.md"))
            if not any(part[0] in "_." for part in p.relative_to(book).parts)]


def notebooks(book: Path) -> list[Path]:
    """The pages below `book` that have code cells, sorted."""
    return [p for p in sources(book) if is_notebook(p.read_text("utf-8"))]


def digest(root: Path) -> str:
    """Hash of all that a page's numbers depend on beside the page: lib/ and the pinned versions."""
    total = hashlib.sha256()
    passing = re.compile(r"__pycache__|build|\..*|.*\.egg-info")
    files = [p for p in sorted((root / "lib").rglob("*")) if p.is_file()
             and not any(passing.fullmatch(part) for part in p.relative_to(root).parts)]
    for path in [*files, *sorted(root.glob("requirements*.txt"))]:
        total.update(path.relative_to(root).as_posix().encode() + b"\0")
        total.update(path.read_bytes() + b"\0")
    return total.hexdigest()[:16]


def source_key(source: str) -> str:
    """Names a code cell by its source, so that an edited cell has no recorded output."""
    return hashlib.sha256(source.strip().encode()).hexdigest()[:16]
