"""Error bounds that need no exact solution, for −Δu = f (Neumann or Dirichlet).

For every approximation v and every field q (with q·n = 0 in the Neumann case)

    ‖∇(u − v)‖ ≤ ‖∇v − q‖ + C ‖f + div q‖                                     (thm-majorant)

with the constant C of ‖w‖ ≤ C‖∇w‖.  Two choices of q: `residual_bound` takes q = ∇v, and
`prager_synge` takes −div q = f, where the bound is one side of an identity (thm-prager-synge).

An approximation is any object as in `approximation`: here its `gradient` is used, and in the two
residual bounds its `laplacian`.
"""
import itertools
import math
from dataclasses import dataclass

import torch

from . import _check, approximation
from .domains import Box
from .equilibrium import BOUNDARY, Equilibrium


SHARE = 0.05  # a Monte Carlo mean of squares is refused if one point carries more than this


@dataclass(frozen=True)
class Certificate:
    """`lower` ≤ ‖∇(u − v)‖ ≤ `bound`, under what is `assumed`.

    constant : C of ‖w‖ ≤ C‖∇w‖ on the domain; assumed : one sentence for the reader.
    """
    bound: float
    lower: float
    constant: float
    assumed: str

    @property
    def l2(self) -> float:
        """Bound on ‖u − v‖ in L² (Neumann: after the mean is removed): C · `bound`."""
        return self.constant * self.bound

    @property
    def gap(self) -> float:
        """Bound on the energy gap E(v) − E(u) = ½‖∇(u − v)‖²."""
        return self.bound**2 / 2

    def effectivity(self, error: float) -> float:
        """`bound` over the true error ‖∇(u − v)‖: never below 1, and the closer the better.

        >>> Certificate(bound=2.0, lower=0.0, constant=1.0, assumed="").effectivity(1.0)
        2.0
        """
        return self.bound / _check.positive("error", error)


def residual_bound(u, f, points: torch.Tensor, weights: torch.Tensor | None = None, *,
                   constant: float, bc: str = "neumann", volume: float = 1.0,
                   sigmas: float = 3.0) -> Certificate:
    """$\\|\\nabla(u_*-u)\\| \\le C\\,\\|\\Delta u + f\\|$ (eq-residual-bound).

    Parameters
    ----------
    u : approximation with ∂ₙu = 0 (Neumann) or u = 0 (Dirichlet) on the boundary.
    f : callable, points `(n, d)` to values `(n,)`.
    points, weights : a quadrature rule; without weights the points are taken as independent and
        uniform on a domain of measure `volume`, and `sigmas` standard errors are added.
    constant : C of ‖w‖ ≤ C‖∇w‖, e.g. `Box.unit(d).poincare` = 1/π, or `equilibrium.friedrichs`.

    Raises ValueError for wrong shapes, NaN, (Neumann) a residual whose mean is not zero: then ∫f ≠ 0
    or ∂ₙu ≠ 0, and no multiple of the residual bounds the error; (Monte Carlo) a mean square of
    which one point carries more than 5 %.

    >>> from lecturelib.pde.approximation import Function
    >>> x, w = Box.unit(1).quadrature(20)
    >>> f = lambda x: math.pi**2 * torch.cos(math.pi * x[:, 0])      # solved by cos(πx)
    >>> c = residual_bound(Function(lambda x: 0 * x[:, 0]), f, x, w, constant=1 / math.pi)
    >>> round(c.bound, 12) == round(math.pi / math.sqrt(2), 12)      # ‖∇cos(πx)‖: nothing is lost
    True
    """
    C = _check.positive("constant", constant)
    if bc not in BOUNDARY:
        raise ValueError(f"bc must be one of {BOUNDARY}; got {bc!r}")
    r, assumed = _residual(u, f, points, weights, volume, bc, sigmas)
    square = _upper_mean(r.square(), points, weights, volume, sigmas)
    return Certificate(C * math.sqrt(square), 0.0, C, assumed)


def deflated_residual_bound(u, f, points: torch.Tensor, weights: torch.Tensor | None = None, *,
                            cutoff: int = 2, sigmas: float = 3.0) -> Certificate:
    """Two-sided residual bound on the unit cube, Neumann, any d (thm-deflation).

    With the cosine coefficients $r_k$ of the residual $r = \\Delta u + f$,
    $\\sum_{|k|^2<m} \\frac{r_k^2}{\\pi^2|k|^2} \\le \\|\\nabla(u_*-u)\\|^2
    \\le \\sum_{|k|^2<m} \\frac{r_k^2}{\\pi^2|k|^2} + \\frac1{\\pi^2m}\\Big(\\|r\\|^2-\\sum_{|k|^2<m} r_k^2\\Big)$.

    Parameters
    ----------
    cutoff : m; m = 1 is `residual_bound`, m = 2 uses d coefficients, m = 3 d(d+1)/2.
    Others as in `residual_bound`.  Without weights the upper bound gets `sigmas` standard errors of
    its own; the lower one tests the residual of one half of the points against the coefficients of
    the other half, less `sigmas` standard errors.

    Raises ValueError as `residual_bound` does, and for points outside the unit cube.

    >>> from lecturelib.pde.approximation import Function
    >>> x, w = Box.unit(2).quadrature(20)
    >>> f = lambda x: 2 * math.pi**2 * torch.cos(math.pi * x).prod(1)
    >>> c = deflated_residual_bound(Function(lambda x: 0 * x[:, 0]), f, x, w, cutoff=3)
    >>> round(c.lower / math.pi, 9), round(c.bound / math.pi, 9)      # ‖∇ cos cos‖ = π/√2
    (0.707106781, 0.707106781)
    """
    m = _check.whole("cutoff", cutoff, 1)
    r, assumed = _residual(u, f, points, weights, 1.0, "neumann", sigmas)
    if points.min() < 0 or points.max() > 1:
        raise ValueError("points must lie in the unit cube")
    phi, k2 = cosines(points, m)
    lam = math.pi**2 * k2
    gain = 1 / lam - 1 / (math.pi**2 * m)                # ≥ 0: noise in r_k can only raise the bound
    if weights is not None:
        rk = (weights * r) @ phi
        upper = (weights @ r.square()) / (math.pi**2 * m) + gain @ rk.square()
        lower = (rk.square() / lam).sum().sqrt()
    else:
        n = len(r)
        rk = (r @ phi) / n
        influence = r.square() / (math.pi**2 * m) + 2 * r * (phi @ (gain * rk))
        upper = (r.square().mean() / (math.pi**2 * m) + gain @ rk.square()
                 + sigmas * influence.std() / math.sqrt(n))
        h = n // 2
        products = r[:h, None] * phi[:h]
        c = products.mean(0)                             # from one half of the points, shrunk by noise
        c *= (1 - (products - c).square().mean(0) / (h - 1) / c.square().clamp(min=1e-300)).clamp(min=0) / lam
        tested = r[h:] * (phi[h:] @ c)                   # ∫ r w on the other half, w = Σ c_k φ_k
        norm = (lam @ c.square()).sqrt()
        lower = (tested.mean() - sigmas * tested.std() / math.sqrt(n - h)) / norm if norm > 0 else norm
    return Certificate(math.sqrt(float(upper)), max(float(lower), 0.0), 1 / math.pi, assumed)


def cosines(x: torch.Tensor, cutoff: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Orthonormal cosines $\\prod_i\\sqrt2^{[k_i>0]}\\cos k_i\\pi x_i$, 0 < |k|² < cutoff, and |k|².

    Shapes `(n, number of k)` and `(number of k,)`.

    >>> cosines(torch.zeros(1, 2), 5)[1].tolist()
    [1.0, 1.0, 2.0, 4.0, 4.0]
    """
    _check.tensor("x", x, 2)
    d, ks = x.shape[1], []
    for active in range(1, min(d, cutoff - 1) + 1):
        most = math.isqrt(cutoff - 1)
        for where in itertools.combinations(range(d), active):
            ks += [dict(zip(where, k)) for k in itertools.product(range(1, most + 1), repeat=active)
                   if sum(j * j for j in k) < cutoff]
    ks.sort(key=lambda k: sum(j * j for j in k.values()))
    k2 = x.new_tensor([sum(j * j for j in k.values()) for k in ks])
    one = {j: math.sqrt(2) * torch.cos(j * math.pi * x) for k in ks for j in k.values()}
    columns = [math.prod(one[j][:, i] for i, j in k.items()) for k in ks]
    return (torch.stack(columns, 1) if ks else x.new_zeros(len(x), 0)), k2


def prager_synge(u, f, domain: Box, degree: int, bc: str = "neumann", points=None,
                 weights=None) -> Certificate:
    """$\\|\\nabla(u_*-u)\\|^2 + \\|\\nabla u_*-q\\|^2 = \\|\\nabla u-q\\|^2$ (thm-prager-synge), on a box.

    Parameters
    ----------
    u : approximation in H¹.  Neumann: no condition on the boundary; Dirichlet: u vanishes there
        (see `vanish`).
    f : callable, points to values.  To certify several u for one f, build
        `pair = Equilibrium(f, domain, degree, bc)` once and call `certify(u, pair)`.
    degree : of q per variable; the bound stops improving once ‖∇u_* − q‖ exceeds the error.
    points, weights : a rule that resolves ∇u, e.g. one per finite element; by default Gauss rules of
        two orders are used, with a ValueError if they differ by more than 1 %; what they differ by
        is added to the larger value and taken off the smaller one.

    >>> from lecturelib.pde.approximation import Function
    >>> f = lambda x: math.pi**2 * torch.cos(math.pi * x[:, 0])
    >>> c = prager_synge(Function(lambda x: 0 * x[:, 0]), f, Box.unit(2), 16)
    >>> round(c.effectivity(math.pi / math.sqrt(2)), 9), round(c.lower / c.bound, 9)
    (1.0, 1.0)
    """
    return certify(u, Equilibrium(f, domain, degree, bc), points, weights)


def certify(u, pair: Equilibrium, points=None, weights=None) -> Certificate:
    """Bracket ‖∇(u_* − u)‖ with a pair (q, w) that was computed once for f (eq-bracket).

    $\\sqrt{\\|\\nabla u-q\\|^2-\\|\\nabla w-q\\|^2} - o \\le \\|\\nabla(u_*-u)\\| \\le \\|\\nabla u-q\\| + o$,
    with $o = C\\|f+\\mathrm{div}\\,q\\|$.  Parameters and errors as in `prager_synge`; Dirichlet: also
    a ValueError if |u| on the boundary is more than a millionth of the bound.
    """
    if (points is None) != (weights is None):
        raise ValueError("points and weights must be given together")
    if points is None and not hasattr(pair, "domain"):
        raise ValueError("points and weights must be given for a flux on a mesh")
    if points is None:
        small, size = sorted(_distance(u, pair, *pair.domain.quadrature(n, pair.dtype, pair.device))
                             for n in (pair.order, 2 * pair.order))
        change = 1 - small / size if size else 0.0
        if change > 0.01:
            raise ValueError(f"the bound changes by {100 * change:.1f} % when the quadrature order "
                             f"{pair.order} is doubled; pass points and weights that resolve u")
        assumed = f"quadrature of order {2 * pair.order}, halving the order changes {change:.0e}"
        small, size = 2 * small - size, 2 * size - small      # an allowance for the error of the rules
    else:
        small = size = _distance(u, pair, points, weights)
        assumed = f"the rule of {len(points)} points given integrates |∇u − q|² exactly enough"
    if pair.bc == "dirichlet":
        face = pair.domain.boundary(pair.order, pair.dtype, pair.device)[0]
        trace = float(u.value(face).abs().max())
        if trace > 1e-6 * size + 1e-14:
            raise ValueError(f"u must vanish on the boundary; it reaches {trace:.3e} there, the bound "
                             f"would be {size:.3e} (correct u by vanish(u, domain))")
        assumed += f"; u = 0 on the boundary (at most {trace:.0e} found)"
    lower = math.sqrt(max(small**2 - pair.width**2, 0.0)) - pair.oscillation
    return Certificate(size + pair.oscillation, max(lower, 0.0), pair.constant, assumed)


def vanish(u, domain: Box) -> approximation.Function:
    """u less the interpolation of its boundary values: $\\prod_i(I-T_i)\\,u$, zero on the boundary.

    $T_iu$ is linear in $x_i$ between the values of u on the two faces $x_i = $ const.  It costs
    3^d evaluations of u; derivatives are automatic.  For data g apply it to u − g.

    >>> u = vanish(approximation.Function(lambda x: x[:, 0] ** 2 + 7), Box.unit(1))
    >>> u.value(torch.tensor([[0.0], [0.5], [1.0]])).tolist()
    [0.0, -0.25, 0.0]
    """
    def project(value, i, a, b):
        def projected(x):
            t = (x[:, i] - a) / (b - a)
            ends = [torch.cat([x[:, :i], torch.full_like(x[:, :1], c), x[:, i + 1:]], 1)
                    for c in (a, b)]
            return value(x) - (1 - t) * value(ends[0]) - t * value(ends[1])
        return projected

    value = u.value
    for i, (a, b) in enumerate(zip(domain.lower, domain.upper)):
        value = project(value, i, a, b)
    return approximation.Function(value)


# ------------------------------------------------------------------------------------ small parts
def _residual(u, f, points, weights, volume, bc, sigmas):
    """r = Δu + f at the points, after the checks, and the sentence about what is assumed."""
    _check.tensor("points", points, 2)
    r = (approximation.sample(f, points)
         + approximation.sample(u.laplacian, points, "u.laplacian"))
    n = len(points)
    if weights is None:
        _check.whole("len(points), without weights,", n, 4)
        _check.positive("volume", volume)
        mean, slack = float(r.mean()), 5 * float(r.std()) / math.sqrt(n)
        total = float(r.square().sum())
        share = float(r.square().max()) / total if total else 0.0
        if share > SHARE:
            raise ValueError(f"one of {n} points carries {100 * share:.0f} % of the squared residual, so "
                             "its mean is not known within a standard error; use more points")
        rule = (f"mean over {n} independent points within {sigmas:g} standard errors, no point "
                f"carries more than {100 * share:.1g} %")
    else:
        _check.tensor("weights", weights, 1)
        if len(weights) != n:
            raise ValueError(f"weights must have one entry per point; got {len(weights)} for {n}")
        mean = float(weights @ r / weights.sum())
        slack = 0.01 * math.sqrt(float(weights @ r.square() / weights.sum()))
        rule = f"the rule of {n} points integrates the squared residual exactly enough"
    if bc == "neumann" and abs(mean) > slack + 1e-9:
        raise ValueError(f"the residual has mean {mean:.3e}, more than {slack:.1e}: either ∫f ≠ 0, "
                         "or ∂ₙu ≠ 0 on the boundary (use prager_synge), or the rule is too coarse")
    return r, {"neumann": "∂ₙu = 0", "dirichlet": "u = 0"}[bc] + f" on the boundary; {rule}"


def _upper_mean(s, points, weights, volume, sigmas) -> float:
    """∫s by the weights, or volume times (mean + `sigmas` standard errors)."""
    if weights is not None:
        return float(weights @ s)
    return volume * float(s.mean() + sigmas * s.std() / math.sqrt(len(points)))


def _distance(u, pair, x, w) -> float:
    """‖∇u − q‖ by the rule (x, w)."""
    _check.tensor("points", x, 2), _check.tensor("weights", w, 1)
    grad = u.gradient(x)
    if grad.shape != x.shape or len(w) != len(x):
        raise ValueError(f"u.gradient and weights must match the {len(x)} points; got shapes "
                         f"{tuple(grad.shape)} and {tuple(w.shape)}")
    _check.tensor("u.gradient(points)", grad)
    return math.sqrt(float(w @ (grad - pair.flux(x)).square().sum(1)))
