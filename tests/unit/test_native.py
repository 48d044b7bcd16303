"""The loops in C do what the eager code does; new tensors have large pages."""
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lecturelib import native
from lecturelib.quantization import gptq, sic, sic_trellis

needs_compiler = pytest.mark.skipif(native.library("columns") is None, reason="there is no C compiler, or its work is not wanted")


@pytest.fixture
def eager(monkeypatch):
    """Run a function without the loops."""
    def run(f):
        with monkeypatch.context() as patch:
            patch.setattr(native, "library", lambda name: None)
            return f()
    return run


def problem(B, m, n, seed=0):
    g = torch.Generator().manual_seed(seed)
    X = torch.randn(B, 2 * n + 8, n, generator=g)
    return torch.randn(B, m, n, generator=g), X.mT @ X / X.shape[1]


@needs_compiler
def test_it_is_built():
    assert native.library("columns") is not None and native.serves("columns", torch.zeros(3))
    assert not native.serves("columns", torch.zeros(3, dtype=torch.float64)) and not native.serves("columns", torch.zeros(3, 2).T)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (7,), (native.MAPPED - 1,), (native.MAPPED,), (5, native.LARGE)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_new_tensors_are_like_those_of_torch(shape, dtype):
    x = native.empty(shape, dtype)
    y = torch.empty(shape, dtype=dtype)
    assert (x.shape, x.dtype, x.device, x.stride()) == (y.shape, y.dtype, y.device, y.stride())
    assert bool((x.fill_(3) == 3).all())
    assert native.empty(shape, dtype, "meta").device.type == "meta"


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage/enabled").exists(), reason="this system has no large pages")
@pytest.mark.parametrize("size", [native.MAPPED, 1 << 27])
def test_linux_is_asked_for_large_pages(size):
    """The memory in the middle of a new tensor lies in a mapping with the flag hg (proc_pid_smaps)."""
    x, flags = native.empty(size, torch.uint8), None
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first:
            low, high = (int(end, 16) for end in first.split("-"))
        elif first == "VmFlags:" and low <= x.data_ptr() + size // 2 < high:
            flags = line.split()[1:]
    assert flags is not None and "hg" in flags


def test_the_advice_is_about_whole_pages_inside_the_tensor(monkeypatch):
    seen = []
    monkeypatch.setattr(native, "_madvise", lambda: lambda *a: seen.append(a))
    for n in (1, native.MAPPED - 1, native.MAPPED, native.MAPPED + 5 * native.LARGE + 11):
        seen.clear()
        x = native.empty(n, torch.uint8)
        assert len(seen) == (n >= native.MAPPED)
        for begin, size, advice in seen:
            assert begin % native.LARGE == size % native.LARGE == 0 and size > 0 and advice == 14
            assert x.data_ptr() <= begin < begin + size <= x.data_ptr() + n
            assert begin - x.data_ptr() < native.LARGE and x.data_ptr() + n - begin - size < native.LARGE


@needs_compiler
@settings(max_examples=40, deadline=None)
@given(B=st.integers(1, 3), g=st.integers(1, native.GROUP), m=st.integers(1, 200), seed=st.integers(0, 99), reverse=st.booleans(), bounded=st.booleans())
def test_feedback_is_the_definition(B, g, m, seed, reverse, bounded):
    gen = torch.Generator().manual_seed(seed)
    e, y, q = (torch.randn(B, g + 2, m + 3, generator=gen)[:, 1:-1, :m] for _ in range(3))       # not contiguous
    N = 0.1 * torch.randn(B, g, g, generator=gen)
    low, high = (-torch.rand(B, 1, m, generator=gen).round(), 1 + torch.rand(B, 1, m, generator=gen).round()) if bounded else (-2, 3)
    w, want, far = e.clone(), torch.empty(B, g, m), torch.zeros(B, g, m, dtype=torch.bool)
    errors = torch.zeros(B, g, m, dtype=torch.float64)
    for j in reversed(range(g)) if reverse else range(g):
        v = y[:, j:j + 1] + N[:, j:j + 1].double() @ errors
        want[:, j:j + 1] = torch.round(v).clamp(low, high)
        far[:, j:j + 1] = (v - v.floor() - 0.5).abs() > 1e-4                                       # from a tie
        errors[:, j:j + 1] = w[:, j:j + 1] - want[:, j:j + 1]
    native.feedback(e, y, N, q, low, high, reverse)
    clear = far.all(1)                                                                              # columns without a near tie
    assert torch.equal(q.mT[clear], want.mT[clear]) and torch.allclose(e.mT[clear], errors.float().mT[clear], atol=1e-6)


@needs_compiler
@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("states", [4, 8, 64, 256])
def test_search_is_bit_for_bit_that_of_the_eager_code(states, threads, eager):
    x = 3 * torch.randn(90, 37, generator=torch.Generator().manual_seed(states))
    x[:3] = torch.tensor([[0.5], [1.5], [-2.5]])                                                    # ties
    fast, slow = sic_trellis.Search(states, 37), sic_trellis.Search(states, 37)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for part in (x[:50], x[50:70].T.contiguous().T, torch.cat((x[70:], x[70:])).T.contiguous()[:, :20].T):       # the state goes on; three layouts
            assert torch.equal(fast(part), eager(lambda part=part: slow(part))) and torch.equal(fast.state, slow.state)
    finally:
        torch.set_num_threads(before)


@needs_compiler
@pytest.mark.parametrize("scheme", [
    lambda W, S: gptq.quantize(W, S, 3, 32)[0], lambda W, S: gptq.quantize(W, S, 2, None, shrink=(1.0, 0.8))[0],
    lambda W, S: gptq.integers(W, S, 0.3), lambda W, S: sic.watersic(W, S, 2.3)[0], lambda W, S: sic.trellis(W, S, 2.3, chunk=20)[0]])
def test_schemes_lose_as_much_as_without(scheme, eager):
    W, sigma = problem(2, 40, 160)
    fast, slow = scheme(W, sigma), eager(lambda: scheme(W, sigma))
    losses = [((W - v) @ sigma * (W - v)).mean((1, 2)) for v in (fast, slow)]
    assert torch.allclose(*losses, rtol=0.02) and float((fast != slow).float().mean()) < 0.05     # a tie that falls otherwise moves what follows


def test_no_compiler_is_no_error(monkeypatch):
    native.library.cache_clear()
    monkeypatch.setenv("CC", "no-such-compiler")
    try:
        assert native.library("columns") is None and not native.serves("columns", torch.zeros(3))
        W, sigma = problem(1, 5, 16)
        assert gptq.quantize(W, sigma, 3, 8)[0].shape == W.shape
    finally:
        native.library.cache_clear()


@needs_compiler
def test_a_damaged_file_is_built_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native._built("columns", ["cc"]).write_bytes(b"")
    native.library.cache_clear()
    try:
        assert native.library("columns") is not None
    finally:
        native.library.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_default_type_does_not_matter_and_nothing_given_is_changed(dtype):
    W, sigma = problem(2, 40, 48)
    W = W.mT.contiguous().mT                                  # its transpose is contiguous
    before = W.clone(), sigma.clone()
    found = []
    for default in (torch.float32, dtype):
        torch.set_default_dtype(default)
        try:
            found.append((gptq.integers(W, sigma, 0.3), gptq.quantize(W, sigma, 3, 16)[0], sic.watersic(W, sigma, step=0.3)[0], sic.trellis(W, sigma, 2.0, chunk=20)[0]))
        finally:
            torch.set_default_dtype(torch.float32)
    assert all(map(torch.equal, *found)) and torch.equal(W, before[0]) and torch.equal(sigma, before[1])


@pytest.mark.parametrize("low, high", [(torch.full((1, 1, 1), -1.0), 2), (-1, torch.full((1, 1, 1), 2.0).expand(1, 1, 9)), (torch.tensor(-1), 2)])
def test_ends_may_be_numbers_or_tensors(low, high):
    e, y = torch.randn(2, 1, 4, 9, generator=torch.Generator().manual_seed(0))
    if native.library("columns") is not None:
        q = torch.empty_like(e)
        native.feedback(e.clone(), y, torch.zeros(1, 4, 4), q, low, high)
        assert torch.equal(q, y.round().clamp(-1, 2))


def test_bad_shapes_are_refused():
    with pytest.raises(ValueError, match="columns"):
        sic_trellis.Search(8, 4)(torch.randn(10, 5))
    with pytest.raises(ValueError, match="shape"):
        native.feedback(*torch.zeros(2, 1, 65, 3), torch.zeros(1, 65, 65), None, -1, 1)


@needs_compiler
def test_it_is_built_once_and_never_half(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = native._built("columns", ["cc"])
    stamp = made.stat().st_mtime_ns
    assert native._built("columns", ["cc"]) == made and made.stat().st_mtime_ns == stamp
    assert [p.name for p in (tmp_path / "lecturelib").iterdir()] == [made.name]
