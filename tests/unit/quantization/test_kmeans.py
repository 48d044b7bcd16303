"""Vector codebooks: the nearest codeword by brute force, Lloyd's rounds, product and residual codes."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lecturelib.quantization import kmeans
from lecturelib.quantization.lloyd_max import lloyd_max
from lecturelib.quantization.product_codes import Product, Residual, fit_product, fit_residual
from scipy.stats import norm
from sklearn.cluster import KMeans


def gauss(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 400), st.integers(0, 300), st.integers(0, 10**6), st.booleans())
def test_nearest_by_brute_force(d, K, n, seed, double):
    dtype = torch.float64 if double else torch.float32
    x, book = gauss(n, d, seed=seed, dtype=dtype), gauss(K, d, seed=seed + 1, dtype=dtype)
    codes = kmeans.nearest(x, book)
    square = torch.cdist(x.double(), book.double())**2
    assert codes.shape == (n,) and codes.dtype == torch.int64
    if n:
        excess = square.gather(1, codes[:, None]).squeeze(1) - square.amin(1)
        assert float(excess.max()) < (1e-12 if double else 1e-5)


@pytest.mark.parametrize("K", [3, 64, 128, 129, 200, 1000, 4097])
def test_ties_go_to_the_lowest_index(K):
    book = gauss(K, 3)
    doubled = torch.cat((book, book.flip(0)))
    x = gauss(500, 3, seed=1)
    assert torch.equal(kmeans.nearest(x, doubled), kmeans.nearest(x, book))
    assert kmeans.nearest(torch.zeros(1, 2), torch.tensor([[3.0, 0], [0, 1], [1, 0], [-1, 0]])).item() == 1


def test_shapes_types_and_out():
    x, book = gauss(4, 5, 3), gauss(7, 3, seed=1)
    codes = kmeans.nearest(x, book)
    out = torch.empty(4, 5, dtype=torch.int64)
    assert kmeans.nearest(x, book, out=out) is out and torch.equal(out, codes)
    assert torch.equal(kmeans.nearest(x[2, 3], book), codes[2, 3])
    assert torch.equal(kmeans.quantize(x, book), book[codes])
    assert kmeans.quantize(x.half(), book).dtype == torch.float16
    assert torch.equal(kmeans.nearest(x.half(), book), kmeans.nearest(x.half().float(), book))
    assert kmeans.distortion(x, book) == pytest.approx(float((x - book[codes]).square().mean()), rel=1e-6)


@pytest.mark.parametrize("d, K", [(1, 5), (2, 16), (3, 200)])
def test_rounds_lower_the_error_and_meet_the_conditions(d, K):
    x = gauss(4000, d, dtype=torch.float64)
    book, errors = x[:K].clone(), []
    for _ in range(60):
        book, error = kmeans.lloyd(x, book)
        errors.append(error)
    assert all(b <= a * (1 + 1e-12) for a, b in zip(errors, errors[1:]))
    codes = kmeans.nearest(x, book)
    moved = torch.stack([x[codes == j].mean(0) for j in range(K)])
    assert float((moved - book).abs().max()) < 0.2
    assert errors[0] == pytest.approx(kmeans.distortion(x, x[:K]))


def test_scalar_codebooks_are_those_of_the_density():
    x = torch.from_numpy(norm.ppf((np.arange(40_000) + 0.5) / 40_000))[:, None]
    book = kmeans.lbg(x, 4, torch.Generator().manual_seed(0), tolerance=1e-9, iterations=500)
    assert np.abs(np.sort(book.view(-1).numpy()) - lloyd_max(norm(), 4).points).max() < 2e-3
    assert kmeans.distortion(x, book) == pytest.approx(0.11748, abs=1e-4)


@pytest.mark.parametrize("d, K", [(2, 16), (4, 64)])
def test_as_good_as_scikit_learn(d, K):
    x = gauss(8000, d)
    ours = kmeans.distortion(x, kmeans.lbg(x, K, torch.Generator().manual_seed(0)))
    theirs = KMeans(K, n_init=3, random_state=0).fit(x.numpy()).inertia_ / x.numel()
    assert ours < 1.01 * theirs


def test_empty_cells_are_filled():
    x = gauss(500, 2)
    book, _ = kmeans.lloyd(x, torch.full((8, 2), 50.0))
    book, error = kmeans.lloyd(x, book)
    assert len(kmeans.nearest(x, book).unique()) == 8 and error < 1


def test_fresh_samples_do_not_overfit():
    g = torch.Generator().manual_seed(0)
    test = gauss(1 << 15, 3, seed=9)
    start = kmeans.lbg(gauss(2048, 3), 64, g)
    refined = kmeans.refine(lambda: torch.randn(2048, 3, generator=g), start, 80)
    assert kmeans.distortion(test, refined) < 0.97 * kmeans.distortion(test, start)
    assert refined.dtype == start.dtype


def test_same_seed_same_codebook():
    x = gauss(3000, 2)
    a, b = (kmeans.lbg(x, 10, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(a, b)
    assert torch.equal(kmeans.lbg(x, 10, torch.Generator(), start=a, iterations=0), a)


def test_product_code_is_the_nearest_of_all_products():
    code = Product((gauss(5, 2, seed=1), gauss(3, 1, seed=2)))
    x = gauss(300, 3)
    everything = torch.cat([torch.cat((a, b))[None] for a in code.codebooks[0] for b in code.codebooks[1]])
    codes = code.encode(x)
    assert torch.equal(codes[:, 0] * 3 + codes[:, 1], kmeans.nearest(x, everything))
    assert torch.equal(code.quantize(x), code.decode(codes)) and code.dimension == 3


def test_residual_code_is_greedy_and_each_stage_helps():
    x = gauss(4000, 2)
    code = fit_residual(x, 3, 8, torch.Generator().manual_seed(0))
    stages = [float((Residual(code.codebooks[:m]).quantize(x) - x).square().mean()) for m in (1, 2, 3)]
    assert stages[0] > 2 * stages[1] > 4 * stages[2]
    codes = code.encode(x)
    assert torch.equal(codes[:, 0], kmeans.nearest(x, code.codebooks[0]))
    assert torch.equal(code.decode(codes), code.quantize(x)) and codes.shape == (4000, 3)


def test_a_product_of_scalars_is_the_scalar_code():
    x = gauss(20_000, 2)
    code = fit_product(x, 2, 4, torch.Generator().manual_seed(0))
    assert float((code.quantize(x) - x).square().mean()) == pytest.approx(0.1175, abs=2e-3)


def test_whole_numbers_may_be_floats():
    x = gauss(200, 2)
    a, b = (fit_product(x, n, k, torch.Generator().manual_seed(0)) for n, k in ((2, 4), (2.0, 4.0)))
    assert all(torch.equal(c, e) for c, e in zip(a.codebooks, b.codebooks))
    assert len(fit_residual(x, 2.0, np.int64(4), torch.Generator()).codebooks) == 2


def test_half_precision_residual_code_subtracts_in_float32():
    x = gauss(3000, 2).bfloat16()
    code = fit_residual(gauss(2000, 2, seed=1), 3, 16, torch.Generator().manual_seed(0))
    assert torch.equal(code.encode(x), code.encode(x.float())) and code.quantize(x).dtype == torch.bfloat16


@pytest.mark.parametrize("call, name", [
    (lambda: kmeans.nearest(torch.tensor([[float("nan"), 0.0]]), torch.zeros(2, 2)), "x must be finite"),
    (lambda: kmeans.nearest(torch.tensor([[float("inf"), 0.0]]), torch.zeros(2, 2)), "x must be finite"),
    (lambda: kmeans.nearest(torch.zeros(2, 2), torch.full((1, 2), float("nan"))), "codebook must be finite"),
    (lambda: kmeans.nearest(torch.zeros(2, 3), torch.zeros(2, 2)), "codebook"),
    (lambda: kmeans.nearest(torch.zeros(2, 2, dtype=torch.int32), torch.zeros(2, 2)), "x must"),
    (lambda: kmeans.nearest(torch.zeros(2, 2), torch.zeros(3, 2), out=torch.empty(3, dtype=torch.int64)), "out"),
    (lambda: kmeans.nearest(torch.zeros(1, 2), torch.full((1, 2), 2e19)), "overflow"),
    (lambda: kmeans.nearest(torch.full((1, 2), 2e38), torch.ones(1, 2)), "overflow"),
    (lambda: kmeans.nearest(torch.zeros(1, 2, device="meta"), torch.ones(1, 2)), "codebook"),
    (lambda: kmeans.distortion(torch.zeros(0, 2), torch.zeros(3, 2)), "x must hold"),
    (lambda: kmeans.lloyd(torch.zeros(0, 2), torch.zeros(3, 2)), "x must hold"),
    (lambda: kmeans.refine(lambda: torch.zeros(0, 2), torch.zeros(3, 2), 1), "x must hold"),
    (lambda: kmeans.refine(lambda: torch.zeros(3, 2), torch.zeros(1, 2), -1), "rounds"),
    (lambda: fit_product([[0.0]], 1, 1, torch.Generator()), "x must"),
    (lambda: fit_product(torch.zeros(4, 2), 1.5, 1, torch.Generator()), "blocks"),
    (lambda: fit_residual(torch.zeros(4, 3), 1.5, 1, torch.Generator()), "stages"),
    (lambda: kmeans.decode(torch.tensor([2]), torch.zeros(2, 2)), "codes"),
    (lambda: kmeans.decode(torch.tensor([0.0]), torch.zeros(2, 2)), "codes"),
    (lambda: kmeans.lbg(torch.zeros(3, 2), 4, torch.Generator()), "K must"),
    (lambda: kmeans.lbg(torch.zeros(3), 1, torch.Generator()), "x must"),
    (lambda: kmeans.lbg(torch.zeros(3, 2), 2, torch.Generator(), start=torch.zeros(2, 1)), "start"),
    (lambda: kmeans.refine(lambda: torch.zeros(3, 2), torch.zeros(1, 2), 1, exponent=0.2), "exponent"),
    (lambda: Product(()), "codebooks"),
    (lambda: Residual((torch.zeros(2, 1), torch.zeros(2, 2))), "codebooks"),
    (lambda: Product((torch.zeros(2, 2),)).encode(torch.zeros(3, 3)), "x must"),
    (lambda: Product((torch.zeros(2, 2),)).decode(torch.zeros(3, 2, dtype=torch.int64)), "codes"),
    (lambda: fit_product(torch.zeros(4, 3), 2, 1, torch.Generator()), "blocks"),
    (lambda: fit_residual(torch.zeros(4, 3), 0, 1, torch.Generator()), "stages"),
])
def test_bad_arguments_are_named(call, name):
    with pytest.raises(ValueError, match=name):
        call()
