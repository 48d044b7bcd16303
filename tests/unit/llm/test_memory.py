"""The hooks that hand memory back are gone afterward, also after an error, and change nothing."""
import pytest
import torch
from lecturelib.llm import memory
from torch import nn


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(11))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def hooks(body):
    return sum(len(layer._forward_hooks) for layer in body.layers)


def test_tidy_runs_after_every_fifth_block_and_the_hooks_go(monkeypatch):
    body, x, calls = Body(), torch.ones(2, 4), []
    plain = body(x)
    monkeypatch.setattr(memory, "tidy", lambda: calls.append(1))
    with memory.frugal(body):
        assert hooks(body) == 3 and torch.equal(body(x), plain)
    assert len(calls) == 4 and hooks(body) == 0


def test_the_hooks_go_after_an_error():
    body = Body()
    with pytest.raises(RuntimeError), memory.frugal(body):
        body(torch.ones(2, 5))
    assert hooks(body) == 0


def test_a_body_without_blocks_is_left_alone():
    with memory.frugal(nn.Linear(2, 2)):
        memory.tidy()
