"""The rate-distortion plane: its curves in the order that theory demands."""
import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy import stats

from lecturelib.quantization import entropy, rate_distortion


@pytest.fixture(scope="module")
def gaussian():
    return rate_distortion.schemes(bits=range(1, 6))


def gap(curve):
    rates, errors = curve
    return rates + 0.5 * np.log2(errors)


def test_order_of_the_schemes_for_a_gaussian(gaussian):
    assert np.allclose(gap(gaussian["Shannon"]), 0, atol=1e-12)
    assert np.all(gap(gaussian["entropy-coded"]) > 0) and np.all(gap(gaussian["entropy-coded"]) < 0.2547)
    assert np.allclose(gap(gaussian["Panter–Dite"]), 0.72199, atol=1e-5)
    coded = entropy.ecsq_uniform(stats.norm(), 3.0)[1]
    assert np.interp(3.0, *gaussian["entropy-coded"]) == pytest.approx(coded, rel=1e-9)
    at = {name: gap(gaussian[name]) for name in ("uniform", "Lloyd–Max")}
    assert at["uniform"][0] == pytest.approx(at["Lloyd–Max"][0])
    assert np.all(at["uniform"][1:] > at["Lloyd–Max"][1:]) and np.all(at["Lloyd–Max"] < 0.7223)


def test_another_source_lies_above_its_shannon_bound():
    source = stats.laplace(scale=0.5**0.5)
    curves = rate_distortion.schemes(source, bits=(1, 2, 3))
    bound = dict(zip(*curves["Shannon"]))
    assert bound[2.0] == pytest.approx(np.e / np.pi / 16)
    for name in ("uniform", "Lloyd–Max", "entropy-coded"):
        rates, errors = curves[name]
        assert np.all(errors > np.interp(rates, *curves["Shannon"]))


@pytest.mark.parametrize("density, power", [(stats.norm(2, 3), 9.0), (stats.laplace(), 2 * np.e / np.pi),
                                            (stats.uniform(0, 2), 2 / (np.pi * np.e)),
                                            (stats.logistic(), np.e**3 / (2 * np.pi))])
def test_entropy_power(density, power):
    assert rate_distortion.entropy_power(density) == pytest.approx(power, rel=1e-9)


def test_plane_draws_every_curve_and_takes_further_ones(gaussian):
    for lost in (False, True):
        fig, ax = plt.subplots()
        rate_distortion.plane(ax, {**gaussian, "a later scheme": ([2.0], [0.07])}, gap=lost)
        assert {line.get_label() for line in ax.lines} == {*gaussian, "a later scheme"}
        assert len(ax.lines) == len(gaussian) + 1
        later = next(line for line in ax.lines if line.get_label() == "a later scheme")
        assert later.get_ydata()[0] == pytest.approx(2 + 0.5 * np.log2(0.07) if lost else 0.07)
        plt.close(fig)


@pytest.mark.parametrize("call, name", [
    (lambda ax, curves: rate_distortion.schemes(bits=()), "bits"),
    (lambda ax, curves: rate_distortion.schemes(bits=(0, 1)), "bits"),
    (lambda ax, curves: rate_distortion.schemes(bits=(2, 1)), "bits"),
    (lambda ax, curves: rate_distortion.schemes(bits=(1.5, 2)), "bits"),
    (lambda ax, curves: rate_distortion.schemes(stats.norm(0, 2)), "variance"),
    (lambda ax, curves: rate_distortion.plane(ax, {"mine": ([1.0], [0.3])}), "curves"),
    (lambda ax, curves: rate_distortion.plane(ax, {"Shannon": ([], [])}), "Shannon"),
    (lambda ax, curves: rate_distortion.plane(ax, {**curves, "bad": ([1.0], [0.3, 0.2])}), "bad"),
    (lambda ax, curves: rate_distortion.plane(ax, {**curves, "bad": ([1.0], [-0.3])}), "bad"),
])
def test_bad_arguments_are_named(call, name, gaussian):
    fig, ax = plt.subplots()
    with pytest.raises(ValueError, match=name):
        call(ax, gaussian)
    plt.close(fig)
