r"""Quantizers inside networks: gradients for rounding, and a codebook learned with the network (VQ).

Vectors lie along the last axis.  A quantizer has `encode` to int64 codes, `decode` and `quantize`,
their composition, without gradient; called as a function of $z$ it returns the same values with a
gradient that an estimator supplies, for rounding has none.  A NaN or an infinity is refused.
"""
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from lecturelib.quantization import kmeans, uniform


def straight_through(z: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    r"""Value $q$, gradient of $z$: the Jacobian of the quantizer is taken to be $I$ (eq-learned-ste).

    >>> z = torch.tensor([0.3], requires_grad=True)
    >>> straight_through(z, z.round()).square().sum().backward()
    >>> z.grad.item()                                  # 2 q, not 2 z
    0.0
    """
    return q.detach() + (z - z.detach())


def rotate(z: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    r"""Value $q$, gradient through the fixed map $z\mapsto\lambda\mathcal Rz$ that takes $z$ to $q$ (thm-learned-rotation).

    $\mathcal R=I-2rr^\top+2\hat q\hat z^\top$ with $r=(\hat z+\hat q)/\|\hat z+\hat q\|$ is the rotation of
    $\hat z$ into $\hat q$ in their plane, $\lambda=\|q\|/\|z\|$; cost $O(d)$.  Where a vector is zero or
    the two are opposite there is no such rotation, and the gradient is the straight-through one.

    >>> z = torch.tensor([[1.0, 0.0]], requires_grad=True)
    >>> q = rotate(z, torch.tensor([[0.0, 2.0]]))
    >>> q.backward(torch.tensor([[0.0, 1.0]]))         # along q, and then along z, twice as long
    >>> q.tolist(), z.grad.tolist()
    ([[0.0, 2.0]], [[2.0, 0.0]])
    """
    e, q = z.detach(), q.detach()
    length, target = e.norm(dim=-1, keepdim=True), q.norm(dim=-1, keepdim=True)
    tiny = torch.finfo(z.dtype).tiny                                   # a number above 0 in every type
    u, v = e / length.clamp(min=tiny), q / target.clamp(min=tiny)
    r = u + v
    square = r.square().sum(-1, keepdim=True)                          # 2 (1 + cos of the angle)
    there = (length > tiny) & (target > tiny) & (square > torch.finfo(z.dtype).eps**0.5)
    turned = z - 2 * r * (r * z).sum(-1, keepdim=True) / square.clamp(min=tiny) + 2 * v * (u * z).sum(-1, keepdim=True)
    turned = torch.where(there, turned * (target / length.clamp(min=tiny)), z)
    return q + (turned - turned.detach())


class Usage(NamedTuple):
    """Entropy of the codes in bits, its exponential, and the number of codewords that occur."""
    entropy: float
    perplexity: float
    used: int


def usage(codes: torch.Tensor, K: int) -> Usage:
    r"""How a codebook of `K` words is used by `codes`: $H$, $2^H$, words used (eq-learned-rate).

    >>> usage(torch.tensor([0, 0, 1, 5]), 8)
    Usage(entropy=1.5, perplexity=2.8284271247461903, used=3)
    """
    check_codes(codes, K)
    if not codes.numel():
        raise ValueError("codes must not be empty")
    count = torch.bincount(codes.reshape(-1).long(), minlength=K)
    p = count[count > 0].double() / codes.numel()
    H = float(-(p * p.log2()).sum())
    return Usage(H, 2**H, len(p))


class VectorQuantizer(nn.Module):
    r"""A codebook that is learned with the network around it (eq-learned-loss).

    Parameters
    ----------
    codebook : initial codewords, a floating-point tensor (K, d); copied.
    decay : $\gamma\in[0,1)$ of the moving averages (eq-learned-ema); None makes the codebook a parameter
        that the codebook loss trains.
    commitment : weight $\beta\ge0$ of $\|z-\mathrm{sg}[e]\|^2$.
    estimator : `straight_through`, `rotate`, or another function of $(z,q)$ with the value $q$.
    revive : codewords with less than this fraction of the mean mass move to vectors of the batch; 0 never.
    generator : source of these vectors, needed if `revive` is positive; on the device of the input or on the CPU.

    Called with $z$ of shape (..., d) returns $(q,\text{codes},\text{loss})$ with the loss
    $\beta\,\mathrm{mean}(z-\mathrm{sg}[q])^2$, plus $\mathrm{mean}(\mathrm{sg}[z]-q)^2$ if `decay` is None;
    in training mode the moving averages are updated afterwards.

    >>> vq = VectorQuantizer(torch.tensor([[-1.0], [1.0]]), decay=0.0)
    >>> q, codes, loss = vq(torch.tensor([[0.5], [1.0], [-3.0]]))
    >>> q.tolist(), codes.tolist(), vq.codebook.tolist()             # decay 0: one round of Lloyd's algorithm
    ([[1.0], [1.0], [-1.0]], [1, 1, 0], [[-3.0], [0.75]])
    """

    def __init__(self, codebook: torch.Tensor, *, decay: float | None = 0.99, commitment: float = 0.25,
                 estimator: Callable = straight_through, revive: float = 0.0, generator: torch.Generator | None = None):
        super().__init__()
        if not isinstance(codebook, torch.Tensor) or codebook.ndim != 2 or not codebook.numel() or \
                not codebook.is_floating_point() or not torch.isfinite(codebook).all():
            raise ValueError("codebook must be a finite floating-point tensor (K, d)")
        if decay is not None and not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1) or be None; got {decay}")
        if not 0 <= commitment < math.inf:
            raise ValueError(f"commitment must be finite and not negative; got {commitment}")
        if not 0 <= revive < 1 or revive and generator is None:
            raise ValueError(f"revive must lie in [0, 1), and be 0 without a generator; got {revive}")
        book = codebook.detach().clone()
        if decay is None:
            self.codebook = nn.Parameter(book)
        else:
            self.register_buffer("codebook", book)
        self.register_buffer("mass", torch.ones(len(book), dtype=book.dtype, device=book.device))
        self.decay, self.commitment, self.estimator = decay, commitment, estimator
        self.revive, self.generator = revive, generator

    def encode(self, z: torch.Tensor) -> torch.Tensor:
        """Index of the nearest codeword, int64 of shape (...,)."""
        return kmeans.nearest(z, self.codebook)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codewords of shape (..., d), without gradient."""
        return kmeans.decode(codes, self.codebook.detach())

    def quantize(self, z: torch.Tensor) -> torch.Tensor:
        """`decode(encode(z))`."""
        return self.decode(self.encode(z))

    def forward(self, z: torch.Tensor):
        codes = self.encode(z)
        q = self.codebook[codes]
        loss = self.commitment * (z - q.detach()).square().mean()
        if self.decay is None:
            loss = loss + (q - z.detach()).square().mean()
        out = self.estimator(z, q)
        if self.training and z.numel():
            self.update(z.detach().reshape(-1, z.shape[-1]), codes.reshape(-1))
        return out, codes, loss

    @torch.no_grad()
    def update(self, z: torch.Tensor, codes: torch.Tensor) -> None:
        r"""Moving averages over one batch: $N_i\leftarrow\gamma N_i+(1-\gamma)n_i$,
        $e_i\leftarrow e_i+\frac{1-\gamma}{N_i}\sum_{z\in B_i}(z-e_i)$ (thm-learned-ema)."""
        K, book = len(self.codebook), self.codebook.data
        z = z.to(book.dtype)
        count = torch.bincount(codes, minlength=K).to(book.dtype)
        decay = 0.99 if self.decay is None else self.decay
        self.mass.mul_(decay).add_(count, alpha=1 - decay)
        if self.decay is not None:
            total = torch.zeros_like(book).index_add_(0, codes, z - book[codes])
            book.add_(total * ((1 - decay) / self.mass.clamp(min=torch.finfo(book.dtype).tiny))[:, None])
        if self.revive:
            mean = self.mass.mean()
            dead = (self.mass < self.revive * mean).nonzero().view(-1)[:len(z)]
            if len(dead):
                order = torch.randperm(len(z), generator=self.generator, device=self.generator.device)
                book[dead] = z[order[:len(dead)].to(z.device)]
                self.mass[dead] = mean


def check_codes(codes, K: int) -> None:
    """ValueError unless `codes` are integers in 0, ..., K-1."""
    if not isinstance(codes, torch.Tensor) or codes.dtype not in (torch.uint8, *uniform.INTEGERS):
        raise ValueError("codes must be a tensor of integers")
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < K:
        raise ValueError(f"codes must lie in 0, ..., {K - 1}")
