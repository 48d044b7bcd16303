"""Where the data come from: random fields, Burgers' equation, Darcy flow.

Every solver takes a batch of inputs at once and works on the device and in the dtype of its input.
"""
import math

import torch

from . import _check, discretize, spectral


def gaussian_field(basis, count: int, tau: float, power: float, generator: torch.Generator,
                   deviation: float | None = None, dtype=torch.float64) -> torch.Tensor:
    """Coefficients `(count, size)` of a mean-zero field with covariance $\\propto(-\\Delta+\\tau^2)^{-\\mathrm{power}}$.

    Parameters
    ----------
    basis : `spectral.Fourier` or `spectral.Cosine`; the field is a sum over its functions but 1.
    deviation : root mean square of the field; by default the covariance is
        $\\tau^{2\\,\\mathrm{power}}(-\\Delta+\\tau^2)^{-\\mathrm{power}}$.
    generator : a generator on the CPU; draws do not depend on the device.

    Sample paths lie in $H^s$ for $s<\\mathrm{power}-d/2$.

    >>> c = gaussian_field(spectral.Fourier(8), 2, 5.0, 2.0, torch.Generator().manual_seed(0), deviation=1.0)
    >>> c.shape, bool((c[:, :2] == 0).all())
    (torch.Size([2, 18]), True)
    """
    _check.whole("count", count, 1)
    tau = _check.positive("tau", tau)
    mu = basis.eigenvalues(dtype)
    spread = (1 + mu / tau**2) ** (-_check.positive("power", power) / 2) * (mu > 0)
    if deviation is not None:
        spread = spread * (_check.positive("deviation", deviation) / spread.square().sum().sqrt())
    return torch.randn(count, basis.size, generator=generator, dtype=dtype) * spread


def burgers(a: torch.Tensor, viscosity: float, time: float) -> torch.Tensor:
    """$u(\\cdot,T)$ for $u_t+uu_x=\\nu u_{xx}$ on the circle, $u(\\cdot,0)=a$ (eq-op-cole-hopf).

    Cole–Hopf: $u=m-2\\nu\\,\\varphi_x/\\varphi$ in coordinates moving with the mean m, where φ solves the
    heat equation; exact but for the trigonometric interpolation of $\\varphi(\\cdot,0)$.

    Parameters
    ----------
    a : `(..., n)` samples at $x_j=j/n$; viscosity ν, time T : positive.

    Raises ValueError if φ spans more than the dtype can hold (ν too small for this a).

    >>> x = torch.arange(64, dtype=torch.float64) / 64
    >>> float(burgers(1 + 0 * x, 0.1, 1.0).sub(1).abs().max()) < 1e-14
    True
    """
    nu, T = _check.positive("viscosity", viscosity), _check.positive("time", time)
    n = _check.tensor("a", a).shape[-1]
    mean = a.mean(-1, keepdim=True)
    ik = 2j * math.pi * torch.arange(n // 2 + 1, dtype=a.dtype, device=a.device)
    hat = torch.fft.rfft(a - mean)
    hat[..., 1:] /= ik[1:]
    potential = torch.fft.irfft(hat, n=n)
    exponent = (potential - potential.amin(-1, keepdim=True)) / (2 * nu)
    if exponent.amax() > -math.log(torch.finfo(a.dtype).eps):
        raise ValueError(f"viscosity {nu} is too small for this a: φ spans a factor e^{float(exponent.amax()):.1f}")
    hat = torch.fft.rfft(torch.exp(-exponent)) * torch.exp(T * (nu * ik**2 - ik * mean))
    return mean - 2 * nu * torch.fft.irfft(ik * hat, n=n) / torch.fft.irfft(hat, n=n)


def burgers_stepping(a: torch.Tensor, viscosity: float, time: float, steps: int) -> torch.Tensor:
    """The same by a method that knows nothing of Cole and Hopf.

    Pseudo-spectral in space (products on two thirds of the frequencies), Runge–Kutta of order 4 with
    the viscous term integrated exactly; two real transforms per stage, eight per step.
    Raises ValueError if the result is not finite (too few steps).

    >>> x = torch.arange(64, dtype=torch.float64) / 64
    >>> a = torch.sin(2 * math.pi * x)
    >>> float((burgers_stepping(a, 0.1, 0.5, 50) - burgers(a, 0.1, 0.5)).abs().max()) < 1e-8
    True
    """
    nu, T = _check.positive("viscosity", viscosity), _check.positive("time", time)
    n, dt = _check.tensor("a", a).shape[-1], T / _check.whole("steps", steps, 1)
    k = torch.arange(n // 2 + 1, dtype=a.dtype, device=a.device)
    half = torch.exp(-nu * (2 * math.pi * k) ** 2 * dt / 2)
    ik = torch.where(3 * k < n, -1j * math.pi * k, 0)

    def rate(v):                                            # −(u²/2)_x
        return ik * torch.fft.rfft(torch.fft.irfft(v, n=n).square())

    v = torch.fft.rfft(a)
    for _ in range(steps):
        k1 = rate(v)
        k2 = rate(half * (v + dt / 2 * k1))
        k3 = rate(half * v + dt / 2 * k2)
        k4 = rate(half * (half * v + dt * k3))
        v = half * (half * (v + dt / 6 * k1) + dt / 3 * (k2 + k3)) + dt / 6 * k4
    return _check.tensor("u (the result: take more steps)", torch.fft.irfft(v, n=n))


class Darcy:
    """$-\\nabla\\cdot(a\\nabla u)=f$, $a\\,\\partial_nu=0$, $\\int u=0$ on the unit square (eq-op-darcy).

    Finite volumes on n × n cells with harmonic means at the faces; conjugate gradients, all samples
    at once, preconditioned by the inverse of $-\\Delta_h$, which cosines diagonalize.

    Parameters
    ----------
    a : `(count, n, n)` positive coefficients at the cell centers.

    Raises ValueError if a is not positive or not finite.
    """

    def __init__(self, a: torch.Tensor):
        if not (_check.tensor("a", a, 3) > 0).all() or a.shape[1] != a.shape[2] or a.shape[1] < 2:
            raise ValueError(f"a must be positive, of shape (count, n, n); got {tuple(a.shape)} with least "
                             f"value {float(a.min())}")
        self.a, self.n = a, a.shape[1]
        self.faces = [2 / (1 / a.narrow(i, 1, self.n - 1) + 1 / a.narrow(i, 0, self.n - 1)) for i in (1, 2)]
        self.Q = discretize.modes(self.n, dtype=a.dtype, device=a.device)
        mu = discretize.eigenvalues(self.n, 2, dtype=a.dtype, device=a.device).reshape(self.n, self.n)
        self.inverse = torch.where(mu > 1e-9, 1 / mu, 0.0)

    def apply(self, u: torch.Tensor) -> torch.Tensor:
        """$-\\nabla_h\\cdot(a\\nabla_hu)$ for u `(count, n, n)`; with a = 1 it is $-\\Delta_h$."""
        out = torch.zeros_like(u)
        for i, a in zip((1, 2), self.faces):
            flux = torch.diff(u, dim=i).mul_(a).mul_(self.n**2)
            out.narrow(i, 0, self.n - 1).sub_(flux)
            out.narrow(i, 1, self.n - 1).add_(flux)
        return out

    def precondition(self, r: torch.Tensor) -> torch.Tensor:
        """$(-\\Delta_h)^{-1}r$ on functions of mean zero: four products with the cosine matrix."""
        return self.Q @ (self.Q.T @ r @ self.Q * self.inverse) @ self.Q.T

    def solve(self, f: torch.Tensor, tolerance: float = 1e-8, iterations: int = 500, start=None,
              watch=None) -> torch.Tensor:
        """u `(count, n, n)` with residual at most `tolerance`·‖f‖ for every sample.

        f is `(n, n)` or `(count, n, n)` with mean zero; `start` an initial guess; `watch(j, u)` sees
        every iterate.  Raises ValueError if ∫f ≠ 0 (says by how much), on no convergence, or if an
        argument has the wrong shape or is not finite.

        >>> x = torch.cos(math.pi * (torch.arange(8, dtype=torch.float64) + 0.5) / 8)
        >>> u = Darcy(torch.ones(1, 8, 8, dtype=torch.float64)).solve(x[:, None] * x)
        >>> mu = float(discretize.eigenvalues(8)[1])
        >>> bool(torch.allclose(2 * mu * u[0], x[:, None] * x))
        True
        """
        if _check.tensor("f", f).shape[-2:] != self.a.shape[1:]:
            raise ValueError(f"f must end in {tuple(self.a.shape[1:])}; got {tuple(f.shape)}")
        _check.positive("tolerance", tolerance), _check.whole("iterations", iterations, 0)
        if start is not None and _check.tensor("start", start, 3).shape != self.a.shape:
            raise ValueError(f"start must have shape {tuple(self.a.shape)}; got {tuple(start.shape)}")
        f = f.expand_as(self.a)
        size = _norm(f)
        worst = float((f.mean((1, 2)).abs() / size.clamp_min(1e-300)).max()) * self.n
        if worst > 1e-8:
            raise ValueError(f"f must have mean zero (∫f = 0); its mean is {worst:.2e} of its norm")
        u = torch.zeros_like(self.a) if start is None else start.clone()
        r = f - self.apply(u) if start is not None else f.clone()
        z = self.precondition(r)
        p, rz = z.clone(), (r * z).sum((1, 2))
        for j in range(iterations + 1):
            if watch is not None:
                watch(j, u)
            running = _norm(r) > tolerance * size
            if not running.any():
                return u - u.mean((1, 2), keepdim=True)
            Ap = self.apply(p)
            step = torch.where(running, rz / (p * Ap).sum((1, 2)), 0.0)[:, None, None]
            u, r = u + step * p, r - step * Ap
            z, old = self.precondition(r), rz
            rz = (r * z).sum((1, 2))
            p = torch.where(running[:, None, None], z + (rz / old)[:, None, None] * p, p)
        raise ValueError(f"no convergence in {iterations} iterations: the worst residual is "
                         f"{float((_norm(r) / size).max()):.1e} of ‖f‖, asked for {tolerance:.1e}")


def _norm(v):
    return v.square().sum((1, 2)).sqrt()
