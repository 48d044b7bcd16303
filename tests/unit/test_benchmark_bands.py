"""The bands over ten seeds that a page asserts are those that the benchmark measured."""
import ast
import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def asserted(page: str, name: str) -> dict:
    """The literal that a page assigns to `name`."""
    source = (ROOT / "book" / f"{page}.md").read_text("utf-8")
    return ast.literal_eval(re.search(rf"^{name} = (\{{.*?\}})", source, re.M | re.S).group(1))


def measured(module: str) -> list[dict]:
    return json.loads((ROOT / "benchmarks" / "results" / f"{module}.json").read_text("utf-8"))["rows"]


def test_networks_in_many_dimensions():
    bands = {r["kernel"].removeprefix("−Δu = f, "): tuple(float(f"{e:.1e}") for e in r["band"])
             for r in measured("pde_networks_cube")}
    assert asserted("pde/networks", "BANDS") == bands


def test_neural_operators():
    bands = [tuple(round(float(e) / 100, 6) for e in re.search(r"\(([\d.]+)–([\d.]+)\)", r["ours"]).groups())
             for r in measured("pde_operators")[:2]]
    assert list(asserted("pde/operators", "BAND").values()) == bands
