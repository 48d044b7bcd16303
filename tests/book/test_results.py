"""The tables and figures that gather the runs of all pages."""
import math

import pytest
import results
from lecturelib import ledger


@pytest.fixture
def ran(monkeypatch):
    rows = [dict(scheme="scalar", kind="fixed", rate=2.0, value=0.1175), dict(scheme="coded", kind="bytes", rate=2.0, value=0.0653, error=0.0001),
            dict(scheme="coded", kind="bytes", rate=4.0, value=0.0041), dict(scheme="Shannon", kind="limit", rate=2.0, value=0.0625)]
    other = [dict(scheme="rows dropped", kind="bytes", rate=0.5, value=0.72, gap=0.01)]
    monkeypatch.setattr(results, "runs", lambda app: {
        "quantization/a": [dict(type="results", problem="gaussian", rows=rows), dict(type="check", label="x")],
        "quantization/b": [dict(type="results", problem="product", rows=other)]})


def test_the_gap_of_a_gaussian_source_is_computed(ran):
    gaps = {(r.scheme, r.rate): r.gap for r in results.rows(None, "gaussian")}
    assert gaps["Shannon", 2.0] == pytest.approx(0, abs=1e-12)
    assert gaps["scalar", 2.0] == pytest.approx(2 + 0.5 * math.log2(0.1175))
    assert [r.page for r in results.rows(None, "product")] == ["quantization/b"]


def test_schemes_are_numbered_by_their_best(ran):
    assert results.order(results.rows(None, "gaussian"), "gap") == ["coded", "scalar"]


def test_values_show_the_digits_their_error_leaves():
    row = results.Row("p", "s", "fixed", 2.0, 0.065312, 0.00012)
    assert results.value(row) == "0.06531 ± 0.00012"
    assert results.value(results.Row("p", "s", "fixed", 2.0, 0.117482)) == "0.11748"


@pytest.mark.parametrize("options", [{"y": "gap", "scale": "sqrt"}, {"y": "value", "scale": "log", "top": 1.0}])
def test_figures_are_drawn_for_both_outputs(ran, tmp_path, options):
    stem = tmp_path / "figure"
    results.draw(results.rows(None, "gaussian"), {**options, "xlabel": "rate", "ylabel": "y"}, stem)
    first = stem.with_suffix(".svg").read_bytes()
    assert b"<svg" in first and stem.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    results.draw(results.rows(None, "gaussian"), {**options, "xlabel": "rate", "ylabel": "y"}, stem)
    assert stem.with_suffix(".svg").read_bytes() == first


@pytest.mark.parametrize("row", [dict(scheme="s", rate=1, value=1), dict(scheme="s", rate=1, value=1, kind="guess"),
                                 dict(scheme="s", rate=math.inf, value=1, kind="fixed"), dict(scheme="s", rate=1, value=1, kind="fixed", more=2)])
def test_bad_rows(row):
    with pytest.raises(ValueError, match="rows"):
        ledger.results("gaussian", [row])
