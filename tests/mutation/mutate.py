"""How many wrong kernels would the tests catch?  One small fault at a time, in a copy of the library: `make mutants`.

    python tests/mutation/mutate.py [--sample 200] [--seed 0] [--modules quantization/uniform …] [--jobs 2]

A mutant differs from the library in one place: a sign or an operator, a comparison, a constant (a factor 1/2, 12 or
2 pi dropped, an index off by one), the direction of a rounding, the least for the largest.  Faults in what is said, not
done, are left out: docstrings, annotations, messages of exceptions.  It is caught if the tests of its module fail, or
take ROPE times as long as without it; those without it must pass.  The files in C are treated alike, by their tokens,
and tested against the eager code.  The examples in the docstrings of the module are among its tests.  Survivors are printed with the line that they change.
"""
import argparse
import ast
import copy
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIBRARY, TESTS = ROOT / "lib" / "lecturelib", ROOT / "tests" / "unit"
ROPE, AT_LEAST = 4, 60                                     # times the usual time, and seconds, after which a mutant is taken to hang
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult, ast.LShift: ast.RShift,
             ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitOr, ast.Mod: ast.Mult, ast.MatMult: ast.Mult}
COMPARISONS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
NAMES = {"floor": "round", "round": "floor", "round_": "floor_", "ceil": "floor", "trunc": "round", "amax": "amin", "amin": "amax", "argmin": "argmax",
         "argmax": "argmin", "minimum": "maximum", "maximum": "minimum", "sub_": "add_", "add_": "sub_", "mul_": "div_", "cos": "sin", "sin": "cos"}
TOKENS = [(r" \+ ", " - "), (r" - ", " + "), (r" \* ", " / "), (r" < ", " <= "), (r" > ", " >= "), (r" == ", " != "), (r" >> ", " << "), (r" << ", " >> "), (r" & ", " | "),
          (r"rintf\(", "floorf("), (r"floorf\(", "rintf("), (r"\b1\b", "2"), (r"\b0\.5f\b", "1.0f"), (r"\b16\b", "15"), (r"\b0\b", "1")]


@dataclass(frozen=True)
class Mutant:
    """`text` in the place of the file `module`; `change` says what is different, at `line`."""
    module: str
    line: int
    change: str
    text: str


def places(tree):
    """Nodes of function bodies that compute: no docstrings, annotations, defaults of arguments, or raised errors."""
    def walk(node):
        if isinstance(node, (ast.Raise, ast.Assert, ast.JoinedStr)):
            return
        yield node
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "args") and not isinstance(node, ast.Call):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)):
                    yield from walk(child)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            yield from walk(node)


def faults(node):
    """(what to say, what to do) for each fault that this node can have."""
    if isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in OPERATORS:
        new = OPERATORS[type(node.op)]
        yield f"{type(node.op).__name__} -> {new.__name__}", lambda n: setattr(n, "op", new())
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        new = COMPARISONS[type(node.ops[0])]
        yield f"{type(node.ops[0]).__name__} -> {new.__name__}", lambda n: n.ops.__setitem__(0, new())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield "minus dropped", lambda n: setattr(n, "op", ast.UAdd())
    elif isinstance(node, ast.Attribute) and node.attr in NAMES:
        yield f"{node.attr} -> {NAMES[node.attr]}", lambda n: setattr(n, "attr", NAMES[n.attr])
    elif isinstance(node, ast.Attribute) and node.attr == "pi":
        yield "pi -> e", lambda n: setattr(n, "attr", "e")
    elif isinstance(node, ast.Constant) and type(node.value) is int and abs(node.value) < 1000:
        yield f"{node.value} -> {node.value + 1}", lambda n: setattr(n, "value", n.value + 1)
    elif isinstance(node, ast.Constant) and type(node.value) is float:
        yield f"{node.value} -> {2 * node.value or 1.0}", lambda n: setattr(n, "value", 2 * n.value or 1.0)


def of_python(path):
    tree = ast.parse(path.read_text())
    seen = set()
    for node in places(tree):
        if id(node) in seen:
            continue
        seen.add(id(node))
        for change, apply in faults(node):
            kept = copy.copy(node)
            kept_ops = list(node.ops) if isinstance(node, ast.Compare) else None
            apply(node)
            yield Mutant(path.relative_to(LIBRARY).as_posix(), node.lineno, change, ast.unparse(tree))
            node.__dict__.update(kept.__dict__)
            if kept_ops is not None:
                node.ops[:] = kept_ops


def of_c(path):
    lines = path.read_text().splitlines(keepends=True)
    for i, line in enumerate(lines):
        code = line.split("/*")[0]
        if line.lstrip().startswith(("/*", "*", "#", "typedef", "extern")) or not code.strip():
            continue
        for pattern, new in TOKENS:
            for m in re.finditer(pattern, code):
                yield Mutant(path.relative_to(LIBRARY).as_posix(), i + 1, f"{m[0].strip()} -> {new.strip()}",
                             "".join((*lines[:i], line[:m.start()] + new + line[m.end():], *lines[i + 1:])))


def tests_of(module: str) -> list[Path]:
    """The test files that name the module, those with its own name first; if there are fewer than two, also those of the modules that import it."""
    if module.startswith("native/"):
        return [TESTS / "test_native_kernels.py", TESTS / "test_native.py"]
    name, tests = Path(module).stem, sorted(TESTS.rglob("test_*.py"))
    own = [p for p in tests if p.stem.startswith(f"test_{name}")]
    found = own + [p for p in tests if p not in own and re.search(rf"\b{name}\b", p.read_text())]
    if len(found) < 2:
        importers = [p.stem for p in LIBRARY.rglob("*.py") if re.search(rf"^ *(from|import) .*\b{name}\b", p.read_text(), re.M)]
        found += [p for p in tests if p not in found and any(p.stem.startswith(f"test_{i}") for i in importers)]
    if not found:
        raise ValueError(f"no test names {module}, nor a module that imports it")
    return found


def run_tests(module: str, folder: Path, patience: float | None = None) -> bool:
    """Do the tests of `module` pass with the library in `folder`?  Raises TimeoutExpired after `patience` seconds."""
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "XDG_CACHE_HOME": str(folder / "cache")}
    examples = [folder / "lecturelib" / module] if module.endswith(".py") else []
    done = subprocess.run([sys.executable, "-m", "pytest", "-x", "-q", "-c", str(ROOT / "pytest.ini"), "-p", "no:cacheprovider", *map(str, examples + tests_of(module))],
                          cwd=ROOT, env=environment, capture_output=True, timeout=patience)
    return done.returncode in (0, 5)


def verdict(mutant: Mutant, folder: Path, usual: float) -> bool:
    """Is it caught?  `folder` holds a copy of the library, which is mended afterward; without the mutant the tests take `usual` seconds."""
    target = folder / "lecturelib" / mutant.module
    kept = target.read_text()
    target.write_text(mutant.text)
    try:
        return not run_tests(mutant.module, folder, max(ROPE * usual, AT_LEAST))
    except subprocess.TimeoutExpired:
        return True
    finally:
        target.write_text(kept)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--modules", nargs="*")
    given = parser.parse_args()
    files = [LIBRARY / (m if m.endswith(".c") else f"{m}.py") for m in given.modules] if given.modules else \
        [p for p in sorted((*(LIBRARY / "quantization").glob("*.py"), *(LIBRARY / "pde").glob("*.py"), *(LIBRARY / "native").glob("*.c"))) if p.stem != "__init__"]
    mutants = [m for p in files for m in (of_c(p) if p.suffix == ".c" else of_python(p))]
    sample = random.Random(given.seed).sample(mutants, min(given.sample, len(mutants)))
    print(f"{len(mutants)} mutants, {len(sample)} tried", flush=True)
    with tempfile.TemporaryDirectory() as work, ThreadPoolExecutor(given.jobs) as pool:
        folders = []
        for k in range(given.jobs):
            folders.append(Path(work) / str(k))
            shutil.copytree(LIBRARY, folders[-1] / "lecturelib", ignore=shutil.ignore_patterns("__pycache__"))

        usual = {}

        def try_one(mutant):
            folder = folders.pop()
            try:
                if mutant.module not in usual:
                    start = time.monotonic()
                    if not run_tests(mutant.module, folder):
                        raise RuntimeError(f"the tests of {mutant.module} fail without a mutant")
                    usual[mutant.module] = time.monotonic() - start
                return verdict(mutant, folder, usual[mutant.module])
            finally:
                folders.append(folder)
        caught = 0
        for number, (mutant, good) in enumerate(zip(sample, pool.map(try_one, sample)), 1):
            caught += good
            if not good:
                print(f"survived: {mutant.module}:{mutant.line}  {mutant.change}:  {(LIBRARY / mutant.module).read_text().splitlines()[mutant.line - 1].strip()}", flush=True)
            if number % 25 == 0 or number == len(sample):
                print(f"{caught} of {number} caught, {100 * caught / number:.1f} %", flush=True)


if __name__ == "__main__":
    main()
