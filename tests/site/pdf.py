"""Faults of the typeset book: `python tests/site/pdf.py FILE.pdf`, one line each, exit 1 if any."""
import re
import sys
from pathlib import Path

from pypdf import PdfReader
from pypdf.errors import PyPdfError

WORDS = ("Contents", "Theorem", "Proof", "Bibliography")


def faults(path: Path) -> list[str]:
    """Unresolved references, missing parts and characters that no font had, one sentence each."""
    if not path.exists():
        return [f"{path}: no such file; run `make pdf` first"]
    try:
        texts = [page.extract_text() for page in PdfReader(path).pages]
    except PyPdfError as error:
        return [f"{path}: not a readable PDF ({error}); run `make clean` and `make pdf`"]
    found = [f"{path}, page {number}: unresolved reference in “{line.strip()}”"
             for number, text in enumerate(texts, 1) for line in text.splitlines() if "??" in line]
    whole = " ".join(" ".join(texts).split()).lower()
    found += [f"{path}: the word “{word}” is nowhere" for word in WORDS if word.lower() not in whole]
    log = path.with_suffix(".log")
    if log.exists():
        lost = re.findall(r"Missing character: There is no (\S+)", log.read_text("utf-8", "replace"))
        found += [f"{path}: no font has the character {char} ({lost.count(char)} times); spell it "
                  "out in PrintableCharacters of book/_ext/weakforms.py" for char in sorted(set(lost))]
    return found


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/site/pdf.py FILE.pdf")
    found = faults(Path(sys.argv[1]))
    print("\n".join(found) or f"{sys.argv[1]}: no fault found")
    sys.exit(bool(found))
