"""What the build, the tests and the recorder need to know of a page's source."""
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

STATEMENTS = {"theorem", "definition", "proposition", "lemma", "corollary", "axiom", "criterion"}
ASIDES = {"admonition", "note", "tip", "warning", "important", "seealso", "dropdown", "margin"}
OPENING = re.compile(r"^\s*(`{3,}|~{3,}|:{3,})\s*(?:\{([\w:+-]+)\})?(.*)$")
LABEL = re.compile(r"^\s*:?label:\s*(\S+)\s*$")


@dataclass(frozen=True)
class Label:
    name: str
    line: int


@dataclass(frozen=True)
class Scan:
    """Labels of displayed equations and statements, and what lacks one, as (line, what)."""
    labels: tuple[Label, ...]
    bare: tuple[tuple[int, str], ...]


def scan(text: str) -> Scan:
    """Find every displayed equation and every theorem-like statement of a MyST page.

    An equation in the running text must carry a label; inside statements, proofs, admonitions,
    exercises and solutions it may go without, because those are referred to as a whole.
    """
    labels, bare = [], []
    stack = []  # open fences: [mark, name, line, label]
    gated = 0
    lines = text.splitlines()
    dollars = None
    for number, line in enumerate(lines, 1):
        top = stack[-1] if stack else None
        closing = top and re.fullmatch(r"\s*(%s{%d,})\s*" % (top[0][0], len(top[0])), line)
        if closing:
            mark, name, start, label = stack.pop()
            statement = name.startswith("prf:") and name[4:] in STATEMENTS
            if label and (name == "math" or statement):
                labels.append(Label(label, start))
            elif statement or (name == "math" and not gated and not _aside(stack)):
                bare.append((start, f"{{{name}}} without a label"))
            continue
        if top and top[1] == "math" or top and top[1].startswith("prf:") and not top[3]:
            if found := LABEL.match(line):
                top[3] = found.group(1)
                continue
        if top and not (top[1].startswith("prf:") or top[1] in ASIDES or top[1] == "div"
                        or top[1].startswith("grid") or top[1].startswith("tab")
                        or top[1].startswith("card")):
            continue
        if opened := OPENING.match(line):
            mark, name, _ = opened.groups()
            name = name or "literal"
            if name.endswith("-start"):
                gated += 1
            if name.endswith("-end"):
                gated -= 1
            stack.append([mark, name, number, ""])
            continue
        if line.lstrip().startswith("$$"):
            tail = re.search(r"\$\$\s*\(([\w:.-]+)\)\s*$", line)
            one_line = line.strip().count("$$") == 2
            if dollars is None and not one_line:
                dollars = number
                continue
            start, dollars = dollars or number, None
            if tail:
                labels.append(Label(tail.group(1), start))
            elif not gated and not _aside(stack):
                bare.append((start, "$$ without a label"))
        elif dollars and line.rstrip().endswith("$$"):
            start, dollars = dollars, None
            if not gated and not _aside(stack):
                bare.append((start, "$$ without a label"))
    return Scan(tuple(labels), tuple(bare))


def _aside(stack) -> bool:
    return any(name.startswith("prf:") or name in ASIDES for _, name, _, _ in stack)


def is_notebook(text: str) -> bool:
    return text.startswith("---") and "\nkernelspec:" in text.split("\n---", 1)[0]


def notebooks(book: Path) -> list[Path]:
    """The MyST notebooks below `book`, sorted."""
    return [p for p in sorted(book.rglob("*.md"))
            if not any(part.startswith("_") for part in p.relative_to(book).parts)
            and is_notebook(p.read_text("utf-8"))]


def digest(root: Path) -> str:
    """Hash of all that a page's numbers depend on beside the page: lib/ and the pinned versions."""
    total = hashlib.sha256()
    files = [p for p in sorted((root / "lib").rglob("*"))
             if p.is_file() and p.suffix in {".py", ".toml", ".c", ".cpp", ".json", ".npz"}]
    for path in [*files, root / "requirements.txt"]:
        total.update(path.relative_to(root).as_posix().encode() + b"\0")
        total.update(path.read_bytes() + b"\0")
    return total.hexdigest()[:16]


def source_key(source: str) -> str:
    """Names a code cell by its source, so that an edited cell has no recorded output."""
    return hashlib.sha256(source.strip().encode()).hexdigest()[:16]
