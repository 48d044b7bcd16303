"""Nearest codeword and LBG against faiss and scikit-learn; Voronoi codes; errors of large codebooks."""
import math
import time
import warnings

import faiss
import numpy as np
import torch
from lecturelib.quantization import kmeans, lattices, nested
from lecturelib.quantization.leech import leech
from sklearn.cluster import KMeans
from timing import eager, paired


def gauss(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def row(kernel, ours, peer, ratio, spread, agreement, note):
    return {"kernel": kernel, "ours": ours, "peer": peer, "ratio": ratio, "spread": spread, "agreement": agreement, "note": note}


def search() -> list[dict]:
    rows, x = [], gauss(65_536, 8, 0)
    faiss.omp_set_num_threads(torch.get_num_threads())
    for K in (256, 65_536):
        book = gauss(K, 8, 1)
        index = faiss.IndexFlatL2(8)
        index.add(book.numpy())
        for name, peer in {"faiss, flat index": lambda: index.search(x.numpy(), 1)[1][:, 0],
                           **({"torch.cdist and argmin": lambda: torch.cdist(x, book).argmin(1).numpy()} if K == 256 else {}),
                           "ours without a compiler": lambda: eager(lambda: kmeans.nearest(x, book))().numpy()}.items():
            same = float((kmeans.nearest(x, book).numpy() == peer()).mean())
            assert same > 0.9999
            mine, theirs, ratio, spread = paired(lambda: kmeans.nearest(x, book), peer, rounds=5, warmup=1)
            rows.append(row(f"nearest of {K} codewords, 65,536 x 8 float32", f"{1e3 * mine:.1f} ms", f"{name} {1e3 * theirs:.1f} ms",
                            ratio, spread, f"same codes for {100 * same:.3f} %, the rest near-ties", f"in C, 32 vectors side by side, {16e-9 * x.shape[0] * K / mine:.0f} GFLOP/s"))
    return rows


def lloyd() -> list[dict]:
    """Twenty rounds from the same start."""
    rows, x, rounds = [], gauss(65_536, 8, 0), 20
    start = x[:256].clone()

    def ours():
        book = start
        for _ in range(rounds):
            book, _ = kmeans.lloyd(x, book)
        return book

    def by_faiss():
        theirs = faiss.Kmeans(8, 256, niter=rounds, max_points_per_centroid=len(x))
        theirs.train(x.numpy(), init_centroids=start.numpy())
        return torch.from_numpy(theirs.centroids)

    def by_sklearn():
        return torch.from_numpy(KMeans(256, init=start.numpy(), n_init=1, max_iter=rounds, tol=0).fit(x.numpy()).cluster_centers_)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                        # of rounds that end before the iteration does
        for name, peer in {"faiss": by_faiss, "scikit-learn": by_sklearn, "ours without a compiler": eager(ours)}.items():
            gap = kmeans.distortion(x, peer()) / kmeans.distortion(x, ours()) - 1
            assert abs(gap) < 1e-4
            mine, theirs, ratio, spread = paired(ours, peer, rounds=5, warmup=1)
            rows.append(row("20 rounds of Lloyd, 256 codewords, 65,536 x 8 float32", f"{1e3 * mine:.0f} ms", f"{name} {1e3 * theirs:.0f} ms", ratio, spread,
                            f"errors differ by {abs(gap):.0e}", f"bound by the search for the nearest codewords; with that alone counted, {16e-9 * x.shape[0] * 256 * rounds / mine:.0f} GFLOP/s"))
    return rows


def design() -> list[dict]:
    rows = []
    for d, K, published in ((2, 16, 0.1092), (3, 64, 0.1027), (4, 256, 0.0989)):
        train, test = gauss(1 << 16, d, 2), gauss(1 << 20, d, 3)
        start = time.perf_counter()
        g = torch.Generator().manual_seed(0)
        book = kmeans.lbg(train, K, g, starts=3, iterations=40, tolerance=1e-4)
        book = kmeans.refine(lambda: torch.randn(1 << 16, d, generator=g), book, 150)
        seconds = time.perf_counter() - start
        square = (test - kmeans.quantize(test, book)).square().mean(1)
        D, error = float(square.mean()), float(square.std()) / len(test)**0.5
        begin = time.perf_counter()
        peer = KMeans(K, n_init=1, random_state=0, max_iter=100).fit(train.numpy())
        theirs = kmeans.distortion(test, torch.from_numpy(peer.cluster_centers_).float())
        rows.append(row(f"codebook for N(0,1) at 2 bits, d = {d}, K = {K}", f"D = {D:.5f}, standard error {error:.5f}",
                        f"scikit-learn D = {theirs:.5f}", theirs / D, [theirs / D, theirs / D], "on 1,048,576 fresh vectors",
                        f"{seconds:.2g} s against {time.perf_counter() - begin:.2g} s; {published} from a sample of moderate size; Shannon 0.0625"))
    return rows


def plain_e8(x):
    """The nearest point of E8 as one would write it, one operator after another."""
    def even(x):
        point = x.round()
        error = x - point
        worst = error.abs().argmax(-1, keepdim=True)
        step = torch.where(error.gather(-1, worst) < 0, -1.0, 1.0)
        return point.scatter_add(-1, worst, torch.where(point.sum(-1, keepdim=True) % 2 != 0, step, 0.0))
    a, b = even(x), even(x - 0.5) + 0.5
    return torch.where((x - a).square().sum(-1, keepdim=True) <= (x - b).square().sum(-1, keepdim=True), a, b)


def lattice() -> list[dict]:
    rows, e8 = [], lattices.e8()
    x, test = gauss(1 << 15, 8, 4), gauss(1 << 18, 8, 5)
    scales = nested.fit_scales(x, e8, 14, 4, np.geomspace(2.8, 8.0, 30) / 14)
    for q in (8, 14, 16):
        code = nested.VoronoiCode(e8, q, tuple(14 / q * np.array(scales)))
        square = (nested.quantize(test, code) - test).square().mean(1)
        D, limit = float(square.mean()), 4.0**-code.rate
        rows.append(row(f"Voronoi code E8/{q} E8, 4 scales, fixed rate {code.rate:.4f} bit", f"D = {D:.6f}",
                        f"Shannon {limit:.6f}", limit / D, [limit / D, limit / D], f"standard error {float(square.std()) / 512:.6f}",
                        f"{code.rate + 0.5 * math.log2(D):.4f} bit above Shannon"))
    y, out = gauss(1 << 19, 8, 6), torch.empty(1 << 19, 8)
    same = float((e8.nearest(y) == plain_e8(y)).all(1).float().mean())
    assert same > 0.99999
    for name, peer, agreement in (("copy", lambda: out.copy_(y), "the limit"), ("clone", y.clone, "the limit"), ("torch, one operator after another", lambda: plain_e8(y), f"{100 * same:.4f} % of the points"),
                                  ("ours without a compiler", eager(lambda: e8.nearest(y)), "equal")):
        mine, theirs, ratio, spread = paired(lambda: e8.nearest(y), peer, rounds=9)
        rows.append(row("nearest point of E8, 524,288 vectors float32", f"{1e3 * mine:.1f} ms", f"{name} {1e3 * theirs:.1f} ms", ratio, spread, agreement,
                        "vectors along the last axis, into a new tensor; in C, bound by arithmetic: some 35 vector operations a vector"))
    z = gauss(4096, 24, 7)
    lattice24 = leech()
    begin = time.perf_counter()
    lattice24.nearest(z)
    seconds = time.perf_counter() - begin
    u = lattice24.modulo(8**0.5 * torch.rand(1 << 15, 24, generator=torch.Generator().manual_seed(8))).double().square().mean(1)
    rows.append(row("second moment of the Leech lattice, 32,768 samples", f"{float(u.mean()):.6f}", f"published {lattice24.moment}",
                    lattice24.moment / float(u.mean()), [lattice24.moment / float(u.mean())] * 2, f"standard error {float(u.std()) / 2**7.5:.6f}",
                    f"exact search over 8192 cosets, {4096 / seconds:.0f} vectors per second"))
    return rows


def measure() -> list[dict]:
    return search() + lloyd() + design() + lattice()
