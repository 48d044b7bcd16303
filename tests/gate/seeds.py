"""A small book made of the real machinery, ways to break it, and a way to run it."""
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SMALL = Path(__file__).parent / "small"
REAL = ("conftest.py", "pytest.ini", "Makefile", "_config.yml", "requirements.txt", "requirements-weights.txt", "book/_ext",
        "book/_static", "book/appendix", "lib/pyproject.toml", "lib/lecturelib/__init__.py",
        "lib/lecturelib/ledger.py", "lib/lecturelib/plots.py", "tests/book", "tests/site",
        "tests/requirements.txt")
BIN = Path(sys.executable).parent
PAGE, SECOND, TOML = "book/pde/page.md", "book/quantization/page.md", "book/ledger/small.toml"
REFERENCE = "tests/reference/pde/page.json"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Outcome:
    folder: Path
    code: int
    text: str

    def failed(self) -> set[str]:
        """The tests that pytest lists as failed."""
        return set(re.findall(r"^FAILED (.+?)(?: - .*)?$", self.text, re.M))

    def count(self, word: str) -> int:
        found = re.search(rf"\b(\d+) {word}", self.text.splitlines()[-1])
        return int(found.group(1)) if found else 0

    def warnings(self) -> int:
        found = re.search(r"build (?:succeeded|finished with problems), (\d+) warning", self.text)
        return int(found.group(1)) if found else 0


class Book:
    """A folder with a small book, and commands that run in it as a reader's would."""

    def __init__(self, folder: Path, quick: Path):
        self.folder, self.quick = folder, quick

    def environment(self, **more) -> dict:
        kept = {k: v for k, v in os.environ.items()
                if not k.startswith(("PYTEST_", "SMALL_", "MAKE", "MFLAGS"))}
        return {**kept, "PYTHONPATH": os.pathsep.join([str(self.folder / "lib"), str(self.quick)]),
                "PYTEST_ADDOPTS": "-p no:cacheprovider -p no:hypothesispytest --color=no", **more}

    def run(self, *command, **more) -> Outcome:
        done = subprocess.run([str(c) for c in command], cwd=self.folder, stdin=subprocess.DEVNULL,
                              env=self.environment(**more), stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, encoding="utf-8", errors="replace")
        return Outcome(self.folder, done.returncode, COLOUR.sub("", done.stdout).rstrip())

    def make(self, target: str, **more) -> Outcome:
        return self.run("make", target, f"BIN={BIN}", **more)

    def test(self, *arguments) -> Outcome:
        return self.run(sys.executable, "-m", "pytest", *(arguments or ("book", "tests/book")))

    def html(self, **more) -> Outcome:
        return self.make("html", **more)

    def read(self, name: str) -> str:
        return (self.folder / name).read_text("utf-8")

    def write(self, name: str, text: str) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text, "utf-8")

    def copy(self, folder: Path) -> "Book":
        shutil.copytree(self.folder, folder, symlinks=True)
        return Book(folder, self.quick)


def assemble(folder: Path, quick: Path) -> Book:
    """The small book: the real machinery, then the pages of tests/gate/small over it."""
    for name in REAL:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, target)
    shutil.copytree(SMALL, folder, dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns("__pycache__"))
    book = Book(folder, quick)
    config = book.read("_config.yml")
    book.write("_config.yml", swapped(config, "    weakforms: book/_ext\n",
                                      "    weakforms: book/_ext\n    hold: book/_ext\n"))
    book.write(".venv/.installed", "")  # nothing is to be installed
    # jsonschema can do without this package, whose import costs each process two seconds
    quick.mkdir(exist_ok=True)
    (quick / "rfc3987_syntax.py").write_text("raise ImportError\n")
    return book


# -------------------------------------------------------------------------------------- the seeds
def swapped(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, f"the seed {old!r} falls on {text.count(old)} places"
    return text.replace(old, new)


def swap(name: str, old: str, new: str):
    return lambda book: book.write(name, swapped(book.read(name), old, new))


def append(name: str, text: str):
    return lambda book: book.write(name, book.read(name) + text)


def write(name: str, text: str):
    return lambda book: book.write(name, text)


def remove(name: str):
    return lambda book: (book.folder / name).unlink()


def before_last_cell(text: str):
    mark = "```{code-cell} ipython3\n:tags: [remove-input]\nledger.close"
    return swap(PAGE, mark, text + "\n" + mark)
