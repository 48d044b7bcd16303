r"""Product and residual codebooks: many codewords from few, for full search is exponential in the rate.

A product code cuts a vector into blocks and codes each with its own codebook; a residual code codes
the vector, then what is left, and so on, with sums of one word from each codebook as codewords.
Both store $\sum_iK_i$ words for $\prod_iK_i$ codewords.  Types and bad input as in
`lecturelib.quantization.kmeans`.
"""
from dataclasses import dataclass

import torch

from lecturelib.quantization import kmeans
from lecturelib.quantization.uniform import _whole


@dataclass(frozen=True, eq=False)
class Product:
    r"""Codebooks of the blocks of a vector, of shapes (K_i, d_i); the vector has $\sum_id_i$ entries.

    >>> code = Product((torch.tensor([[-1.0], [1.0]]), torch.tensor([[0.0], [3.0]])))
    >>> code.encode(torch.tensor([[0.2, 2.0]])).tolist(), code.quantize(torch.tensor([[0.2, 2.0]])).tolist()
    ([[1, 1]], [[1.0, 3.0]])
    """
    codebooks: tuple[torch.Tensor, ...]

    def __post_init__(self):
        _nonempty(self.codebooks)

    @property
    def dimension(self) -> int:
        return sum(c.shape[1] for c in self.codebooks)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """int64 codes of shape (..., number of blocks) for `x` of shape (..., dimension)."""
        if not isinstance(x, torch.Tensor) or x.ndim == 0 or x.shape[-1] != self.dimension:
            raise ValueError(f"x must be a tensor with last axis {self.dimension}")
        blocks = x.split([c.shape[1] for c in self.codebooks], -1)
        return torch.stack([kmeans.nearest(b, c) for b, c in zip(blocks, self.codebooks)], -1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Vectors of shape (..., dimension)."""
        _columns(codes, self.codebooks)
        return torch.cat([kmeans.decode(j, c) for j, c in zip(codes.unbind(-1), self.codebooks)], -1)

    def quantize(self, x: torch.Tensor) -> torch.Tensor:
        """`decode(encode(x))`, the nearest of all codewords, in the type of `x`."""
        return self.decode(self.encode(x)).to(x.dtype)


@dataclass(frozen=True, eq=False)
class Residual:
    r"""Codebooks of the stages, all (K_i, d): $\hat x=\sum_ic^{(i)}_{j_i}$, chosen stage by stage.

    The greedy choice is not the nearest of all sums; it is the nearest for one stage.

    >>> code = Residual((torch.tensor([[-2.0], [2.0]]), torch.tensor([[-0.5], [0.5]])))
    >>> code.encode(torch.tensor([[1.4]])).tolist(), code.quantize(torch.tensor([[1.4]])).tolist()
    ([[1, 0]], [[1.5]])
    """
    codebooks: tuple[torch.Tensor, ...]

    def __post_init__(self):
        _nonempty(self.codebooks)
        if len({c.shape[1] for c in self.codebooks}) > 1:
            raise ValueError("codebooks must all have vectors of one dimension")

    @property
    def dimension(self) -> int:
        return self.codebooks[0].shape[1]

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """int64 codes of shape (..., number of stages) for `x` of shape (..., dimension)."""
        rest, codes = x, []
        if isinstance(x, torch.Tensor) and x.dtype in (torch.float16, torch.bfloat16):
            rest = x.float()
        for book in self.codebooks:
            codes.append(kmeans.nearest(rest, book))
            rest = rest - kmeans.decode(codes[-1], book, dtype=rest.dtype)
        return torch.stack(codes, -1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Vectors of shape (..., dimension), summed from the first stage on."""
        _columns(codes, self.codebooks)
        return sum(kmeans.decode(j, c) for j, c in zip(codes.unbind(-1), self.codebooks))

    def quantize(self, x: torch.Tensor) -> torch.Tensor:
        """`decode(encode(x))` in the type of `x`."""
        return self.decode(self.encode(x)).to(x.dtype)


def fit_product(x: torch.Tensor, blocks: int, K: int, generator: torch.Generator, **options) -> Product:
    """A product code of `blocks` codebooks of `K` words by `kmeans.lbg`, for vectors `x` (n, d).

    `options` go to `kmeans.lbg`.  Raises ValueError unless `blocks` divides d.

    >>> x = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    >>> [tuple(c.shape) for c in fit_product(x, 2, 8, torch.Generator().manual_seed(0)).codebooks]
    [(8, 2), (8, 2)]
    """
    if not isinstance(x, torch.Tensor) or x.ndim != 2:
        raise ValueError("x must be a floating-point tensor of shape (n, d)")
    if not _whole(blocks) or blocks < 1 or x.shape[1] % blocks:
        raise ValueError(f"blocks must divide the dimension of x; got {blocks!r} and shape {tuple(x.shape)}")
    return Product(tuple(kmeans.lbg(b.contiguous(), K, generator, **options) for b in x.chunk(int(blocks), 1)))


def fit_residual(x: torch.Tensor, stages: int, K: int, generator: torch.Generator, **options) -> Residual:
    """A residual code of `stages` codebooks of `K` words, each by `kmeans.lbg` on what the last left.

    >>> x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    >>> [tuple(c.shape) for c in fit_residual(x, 3, 4, torch.Generator().manual_seed(0)).codebooks]
    [(4, 2), (4, 2), (4, 2)]
    """
    if not _whole(stages) or stages < 1:
        raise ValueError(f"stages must be an integer of at least 1; got {stages!r}")
    rest, books = x, []
    for _ in range(int(stages)):
        books.append(kmeans.lbg(rest, K, generator, **options))
        rest = rest - kmeans.quantize(rest, books[-1])
    return Residual(tuple(books))


def _nonempty(codebooks) -> None:
    if not codebooks or any(not isinstance(c, torch.Tensor) or c.ndim != 2 for c in codebooks):
        raise ValueError("codebooks must be at least one tensor of shape (K, d)")


def _columns(codes, codebooks) -> None:
    if not isinstance(codes, torch.Tensor) or codes.ndim == 0 or codes.shape[-1] != len(codebooks):
        raise ValueError(f"codes must be a tensor with last axis {len(codebooks)}")
