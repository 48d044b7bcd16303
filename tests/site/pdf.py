"""What is wrong with the typeset book.

    python tests/site/pdf.py _build/latex/weak-forms-few-bits.pdf

prints one line for each fault and exits with 1 if there is one.
"""
import re
import sys
import unicodedata
from pathlib import Path

from pypdf import PdfReader
from pypdf.errors import PyPdfError

WANTED = (("Weak Forms, Few Bits",), ("Contents",), ("Theorem",), ("Proof",),
          ("Works cited", "Bibliography", "References"))
BROKEN = {
    "unresolved reference": re.compile(r"\?\?"),
    "unresolved citation": re.compile(r"\[\?\]"),
    "unread markup": re.compile(r"\{(?:eq|ref|doc|numref|cite(?::\w)?|prf:ref|glue(?::\w+)?)\}`"),
}
FONT_FILES = ("/FontFile", "/FontFile2", "/FontFile3")


def words(text: str) -> str:
    """Text without ligatures and line ends.

    >>> words("the ﬁrst\\nline")
    'the first line'
    """
    return " ".join(unicodedata.normalize("NFKC", text).split())


def fonts(page):
    """The fonts of a page's own text (figures bring their own), as (name, dictionary)."""
    for font in page.get("/Resources", {}).get("/Font", {}).values():
        font = font.get_object()
        if font["/Subtype"] == "/Type0":
            font = font["/DescendantFonts"][0].get_object()
        yield str(font.get("/BaseFont", "a font without a name")).lstrip("/"), font


def page_faults(page) -> list[str]:
    found = [f"{what} in “{line.strip()}”" for what, pattern in BROKEN.items()
             for line in page.extract_text().splitlines() if pattern.search(line)]
    for name, font in fonts(page):
        if font["/Subtype"] == "/Type3":
            found.append(f"{name} is a bitmap font; is a LaTeX font missing?")
        elif not any(key in font.get("/FontDescriptor", {}) for key in FONT_FILES):
            found.append(f"{name} is not embedded")
    return found


def log_faults(path: Path) -> list[str]:
    """Characters that no font had, as LaTeX's log beside the PDF tells."""
    log = path.with_suffix(".log")
    if not log.is_file():
        return []
    lost = re.findall(r"Missing character: There is no (\S+)", log.read_text("utf-8", "replace"))
    return [f"no font has the character {character} ({lost.count(character)} times); spell it out "
            "in PrintableCharacters of book/_ext/weakforms.py" for character in sorted(set(lost))]


def faults(path) -> list[str]:
    """One line for each fault of the PDF at `path`; empty if it can be handed out."""
    path = Path(path)
    if not path.is_file():
        return [f"{path}: missing; run `make pdf` (which says what to install if LaTeX is not)"]
    try:
        pages = PdfReader(path).pages
        found = [f"{path}, page {number}: {fault}" for number, page in enumerate(pages, 1)
                 for fault in page_faults(page)]
        text = words(" ".join(page.extract_text() for page in pages))
    except PyPdfError as error:
        return [f"{path}: not a whole PDF ({error}); delete it and run `make pdf`"]
    found += [f"{path}: {' or '.join(f'“{name}”' for name in names)} is nowhere in the text"
              for names in WANTED if not any(name.lower() in text.lower() for name in names)]
    return found + [f"{path}: {fault}" for fault in log_faults(path)]


def main(arguments) -> int:
    if len(arguments) != 1:
        print("usage: python tests/site/pdf.py FILE.pdf")
        return 2
    found = faults(arguments[0])
    print("\n".join(found) or f"{arguments[0]}: no fault found")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
