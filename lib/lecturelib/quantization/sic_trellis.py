r"""A trellis down the rows of every column, under successive interference cancellation.

Column $i$ of the matrix is measured in steps $\alpha_i=c/\tilde L_{ii}$ and its rows, cut into chunks, are coded by
the trellis on the integers of `entropy_trellis`: in each state only the even or only the odd integers
are allowed, and the integer modulo 4 leads to the next state.  The search takes the path of least square
error; the charge for the rate is already in the targets (`sic`).  All chunks of all matrices run side by
side, and each goes on in the next column from the state where it stopped, so that no states are sent.
The whole column is decided before the next one is touched: nothing of the feedback is lost.
"""
from functools import partial

import numpy as np
import torch

from lecturelib import native
from lecturelib.quantization import entropy_trellis

PIECE = 1 << 18                                            # branch costs spread over the registers at a time


class Search:
    r"""Viterbi search over chunks of columns, from one column to the next.

    states : 4, 8, ..., 256 (a key of `entropy_trellis.MASKS`).
    sequences : how many run side by side.  All start in state 0.
    """

    def __init__(self, states: int, sequences: int, device: torch.device | str = "cpu"):
        if states not in entropy_trellis.MASKS:
            raise ValueError(f"states must be one of {tuple(entropy_trellis.MASKS)}; got {states!r}")
        h0, h1 = entropy_trellis.MASKS[states]
        w = torch.arange(2 * states)
        self.labels = (2 * entropy_trellis.parity(w & h0) + entropy_trellis.parity(w & h1)).to(device)
        self.states, half = int(states), states // 2
        self.state = torch.zeros(sequences, dtype=torch.int64, device=device)
        self.M = [torch.empty(states, sequences, device=device) for _ in range(2)]
        self.V = torch.empty(2, half, 2, sequences, device=device)
        self.base = torch.arange(sequences, device=device)
        self.choice = torch.empty(0, states, sequences, dtype=torch.bool, device=device)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Integers of the best path through `x` (T, sequences), float32, finite; the states move on."""
        (T, S), states, half = x.shape, self.states, self.states // 2
        if S != len(self.state):
            raise ValueError(f"x must have {len(self.state)} columns, one for each sequence; got {S}")
        if (native.serves("columns", x) or native.serves("columns", x.T)) and self.state.device.type == "cpu":
            q = torch.empty_like(x)
            native.call("columns", "paths", x, q, self.state, self.labels, states, T, S, *x.stride(), *q.stride())
            return q
        x = x.contiguous()
        if len(self.choice) < T:
            self.choice = torch.empty(T, states, S, dtype=torch.bool, device=x.device)
        cost = _squares(x)
        self.M[0].fill_(torch.inf).scatter_(0, self.state.unsqueeze(0), 0.0)
        w = torch.empty(T, S, dtype=torch.int64, device=x.device)
        xp, take, as_array = _arrays(x.device)
        ways = [(M.reshape(2, half, 1, S), M.reshape(half, 2, S)) for M in map(as_array, self.M)]
        V, choice = as_array(self.V), as_array(self.choice)
        a, b, parts, flat = V[0], V[1], choice.reshape(len(choice), half, 2, S), choice.reshape(len(choice), -1)
        piece = max(1, PIECE // self.V.numel()) if xp is np else T
        for begin in range(0, T, piece):                   # add, compare, select
            C = as_array(cost[begin:begin + piece].index_select(1, self.labels)).reshape(-1, 2, half, 2, S)
            for t, c in enumerate(C, begin):
                xp.add(c, ways[t % 2][0], out=V)
                xp.less(b, a, out=parts[t])
                xp.minimum(a, b, out=ways[1 - t % 2][1])
        s, registers, base, index = as_array(self.M[T % 2].argmin(0)), as_array(w), as_array(self.base), as_array(self.state)
        last, h = torch.as_tensor(s), as_array(torch.empty(S, dtype=torch.bool, device=x.device))
        for t in range(T - 1, -1, -1):                     # and the way back
            xp.multiply(s, S, out=index)
            xp.add(index, base, out=index)
            take(flat[t], index, out=h)
            xp.multiply(h, states, out=registers[t])
            xp.add(registers[t], s, out=registers[t])
            s = registers[t] >> 1
        self.state = last.clone()
        j = self.labels.to(x.dtype).take(w)
        return torch.sub(x, j).mul_(0.25).round_().mul_(4).add_(j)


def _squares(x):
    """Square distances (T, 4, S) from x to the integers 0, 1, 2, 3 modulo 4."""
    r = torch.mul(x, 0.25).round_().mul_(-4).add_(x)       # in [-2, 2]
    d = x.new_empty(len(x), 4, x.shape[1])
    torch.add(r, 1, out=d[:, 1]).abs_().sub_(2)
    torch.sub(r, 1, out=d[:, 3]).abs_().sub_(2)
    d[:, 0] = r
    d[:, 2] = r.abs_().sub_(2)
    return d.square_()


def _arrays(device):
    """The module whose calls are cheapest there, its flat look-up, and the view that it takes."""
    if torch.device(device).type == "cpu":
        return np, partial(np.ndarray.take, mode="clip"), torch.Tensor.numpy
    return torch, torch.take, lambda x: x


def chunk_length(m: int, aim: int = 192) -> int:
    """The divisor of m that is nearest to `aim` in ratio.

    >>> chunk_length(960), chunk_length(1536), chunk_length(100)
    (192, 192, 100)
    """
    divisors = [d for d in range(1, m + 1) if m % d == 0]
    return min(divisors, key=lambda d: max(d / aim, aim / d))
