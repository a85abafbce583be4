"""Fusion of denoising paths: weights, flips, windows, and what must not change."""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from calotype.core.noise import batch_noise
from calotype.core.paths import Path, flip_frames, frame_weights, fuse, sliding_windows, time_reversal, windows
from calotype.core.samplers import euler_step, sample
from calotype.core.schedule import karras_sigmas
from calotype.errors import InputError, ShapeError
from tests.core.closed_form import counted

KINDS = ["linear", "uniform", "exponential", "smooth"]
SHAPE = (6, 4, 3, 3)
TABLE = karras_sigmas(6, 0.02, 20.0)


def clip(count: int = 2) -> Tensor:
    return 20.0 * batch_noise(SHAPE, 1, count)


def causal(x: Tensor, sigma: float) -> Tensor:
    """A denoiser with a direction in time: each frame is drawn towards the mean of the frames before it."""
    before = x.cumsum(1) / torch.arange(1, x.shape[1] + 1).view(1, -1, 1, 1, 1)
    return torch.tanh(before) / (1 + sigma) + 0.1 * torch.linspace(-1, 1, x.shape[1]).view(1, -1, 1, 1, 1)


def equivariant(x: Tensor, sigma: float) -> Tensor:
    """A denoiser for which the two directions of time are alike: flip(D(x)) = D(flip(x))."""
    return torch.tanh(x + x.roll(1, 1) + x.roll(-1, 1)) / (1 + sigma)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 3, 8, 25])
def test_weights_of_both_directions_sum_to_one(kind: str, n: int) -> None:
    w = frame_weights(kind, n)  # type: ignore[arg-type]
    assert w.shape == (1, n, 1, 1, 1)
    assert torch.allclose(w + w.flip(1), torch.ones_like(w), atol=1e-6)
    assert (w >= 0).all()


@pytest.mark.parametrize("kind", ["linear", "smooth"])
def test_ends_belong_to_one_path(kind: str) -> None:
    w = frame_weights(kind, 8).flatten()  # type: ignore[arg-type]
    assert w[0] == 1
    assert w[-1] == pytest.approx(0, abs=1e-6)
    assert (w.diff() < 0).all()


def test_two_frames_are_one_path_each() -> None:
    x = clip()[:, :2]
    fused = fuse(causal, time_reversal(frame_weights("linear", 2)))(x, 3.0)
    assert torch.equal(fused[:, 0], causal(x, 3.0)[:, 0])
    assert torch.equal(fused[:, 1], causal(x.flip(1), 3.0)[:, 0])


def test_flip_of_flip_is_nothing() -> None:
    x = clip()
    assert torch.equal(flip_frames(flip_frames(x)), x)
    assert not torch.equal(flip_frames(x), x)


def test_both_paths_go_through_one_call_path_after_path() -> None:
    denoise, calls = counted(causal)
    rows: list[Tensor] = []

    def spy(x: Tensor, sigma: float) -> Tensor:
        rows.append(x)
        return denoise(x, sigma)

    x = clip(2)
    fuse(spy, time_reversal(frame_weights("linear", 6)))(x, 3.0)
    assert calls == [(3.0, 4)]
    assert torch.equal(rows[0], torch.cat([x, x.flip(1)]))


def test_one_path_alone_is_the_denoiser() -> None:
    x = clip()
    alone = fuse(causal, [Path(lambda x: x, lambda x: x, torch.tensor(0.5))])
    assert torch.equal(alone(x, 3.0), causal(x, 3.0))


def test_fusing_is_palindromic_for_a_time_symmetric_denoiser() -> None:
    """Start and end alike and a denoiser without a direction of time: a palindromic start gives a palindromic clip."""
    x = clip() + clip().flip(1)
    fused = fuse(equivariant, time_reversal(frame_weights("linear", 6)))
    result = sample(fused, x, TABLE)
    assert torch.allclose(result, result.flip(1), atol=1e-5)
    one_way = sample(causal, x, TABLE)
    assert not torch.allclose(one_way, one_way.flip(1), atol=1e-2)


def test_fusion_turned_round_is_fusion_of_the_turned_clip() -> None:
    """With the same condition on both sides, fusing commutes with turning the clip round, whatever the denoiser does in time."""
    x = clip()
    fused = fuse(causal, time_reversal(frame_weights("linear", 6)))
    assert torch.allclose(fused(x.flip(1), 3.0), fused(x, 3.0).flip(1), atol=1e-6)


def test_fusing_estimates_equals_fusing_the_next_samples_of_euler() -> None:
    x, sigma, sigma_next = clip(), 3.0, 1.2
    w = frame_weights("linear", 6)
    fused = euler_step(fuse(causal, time_reversal(w)), x, sigma, sigma_next).x
    forward = euler_step(causal, x, sigma, sigma_next).x
    backward = euler_step(causal, x.flip(1), sigma, sigma_next).x.flip(1)
    assert torch.allclose(fused, w * forward + w.flip(1) * backward, atol=1e-5)


def test_weights_need_not_sum_to_one() -> None:
    x, w = clip(), frame_weights("linear", 6)
    assert torch.allclose(fuse(causal, time_reversal(3 * w))(x, 3.0), fuse(causal, time_reversal(w))(x, 3.0), atol=1e-6)


@pytest.mark.parametrize(("length", "size", "stride"), [(6, 4, 2), (6, 4, 3), (6, 6, 1), (6, 1, 1), (6, 5, 2)])
def test_windows_change_nothing_for_a_pointwise_denoiser(length: int, size: int, stride: int) -> None:
    x = clip()
    pointwise = fuse(lambda x, sigma: torch.tanh(x) / (1 + sigma), windows(length, size, stride))
    assert torch.allclose(pointwise(x, 3.0), torch.tanh(x) / 4, atol=1e-6)


def test_windows_work_on_any_axis_and_all_have_one_size() -> None:
    volume = batch_noise((7, 5, 6), 2, 2)
    paths = windows(7, 3, 2, dim=1, rank=4)
    assert [path.view(volume).shape for path in paths] == [(2, 3, 5, 6)] * 3
    fused = fuse(lambda x, sigma: 2 * x, paths)
    assert torch.allclose(fused(volume, 1.0), 2 * volume, atol=1e-6)


def test_overlapping_windows_blend_by_their_triangles() -> None:
    """Two windows of 4 over 6: at place 2 the first has weight 2 and the second 1."""
    x = torch.zeros(1, 6, 1, 1, 1)
    fused = fuse(lambda x, sigma: x + torch.tensor([0.0, 3.0]).view(2, 1, 1, 1, 1), windows(6, 4, 2))
    assert fused(x, 1.0).flatten().tolist() == pytest.approx([0, 0, 1, 2, 3, 3])


def test_windows_refuse_a_sample_of_another_length() -> None:
    with pytest.raises(ShapeError, match="length 6; these windows were made for 7"):
        fuse(causal, windows(7, 4, 2))(clip(), 1.0)


@pytest.mark.parametrize(("size", "stride"), [(0, 1), (7, 1), (3, 4), (3, 0)])
def test_windows_that_cannot_cover_are_refused(size: int, stride: int) -> None:
    with pytest.raises(InputError):
        windows(6, size, stride)


def test_uncovered_places_are_refused() -> None:
    half = Path(lambda x: x, lambda x: x, torch.tensor([1.0, 1, 1, 0, 0, 0]).view(1, 6, 1, 1, 1))
    with pytest.raises(InputError, match="sum to 0"):
        fuse(causal, [half])(clip(), 1.0)


@pytest.mark.bad_input
def test_other_misuse_is_refused() -> None:
    with pytest.raises(InputError, match="no path"):
        fuse(causal, [])
    with pytest.raises(InputError, match="unknown"):
        frame_weights("steep", 8)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least 1"):
        frame_weights("linear", 0)
    short = Path(lambda x: x[:, :2], lambda x: x, torch.tensor(1.0))
    with pytest.raises(ShapeError, match="one shape"):
        fuse(causal, [short, Path(lambda x: x, lambda x: x, torch.tensor(1.0))])(clip(), 1.0)


SIZES = st.tuples(*[st.integers(1, 13)] * 3)


def rowwise(x: Tensor, sigma: float) -> Tensor:
    """Looks at its whole window, row by row, in an order of operations that doesn't depend on the other rows."""
    return torch.stack([torch.tanh(row) + row.flip(-1) / (1 + sigma) for row in x])


@settings(max_examples=40, deadline=None)
@given(SIZES, st.tuples(*[st.integers(1, 9)] * 3), st.floats(0, 0.9), st.sampled_from([None, 1, 2, 5]))
def test_volume_windows_cover_everything_and_change_nothing(
    size: tuple[int, int, int], window: tuple[int, int, int], overlap: float, rows: int | None
) -> None:
    x = batch_noise((1, *size), 3, 2)
    paths = sliding_windows(size, window, overlap)
    sides = tuple(min(pair) for pair in zip(size, window, strict=True))
    seen = sum(path.restore(torch.ones(1, 1, *sides)) for path in paths)
    assert seen.min() >= 1  # type: ignore[union-attr]
    for axis in (2, 3, 4):
        assert seen.movedim(axis, 0)[-1].min() >= 1  # type: ignore[union-attr]
    assert torch.allclose(fuse(lambda x, sigma: x, paths, max_rows=rows)(x, 1.0), x, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(SIZES, st.integers(1, 40))
def test_volumes_do_not_depend_on_the_windows_of_one_call(size: tuple[int, int, int], rows: int) -> None:
    x = batch_noise((1, *size), 3, 2)
    paths = sliding_windows(size, (5, 4, 6), 0.5)
    assert torch.equal(fuse(rowwise, paths, max_rows=rows)(x, 2.0), fuse(rowwise, paths)(x, 2.0))


def test_rows_of_a_call_are_bounded_but_hold_a_whole_window() -> None:
    paths = sliding_windows((12, 12, 12), (6, 6, 6), 0.5)
    for rows, expected in ((8, 8), (7, 6), (1, 2)):
        denoise, calls = counted(rowwise)
        fuse(denoise, paths, max_rows=rows)(batch_noise((1, 12, 12, 12), 3, 2), 1.0)
        assert max(count for _, count in calls) == expected
        assert sum(count for _, count in calls) == 2 * 27


def test_hundreds_of_windows_need_the_memory_of_a_few() -> None:
    """However many windows there are, few estimates are alive at once, and two whole samples are made: the sum and its weight."""
    alive: list[weakref.ref[Tensor]] = []
    wholes: list[Tensor] = []
    most = 0

    def spy(x: Tensor, sigma: float) -> Tensor:
        nonlocal most
        estimate = 2 * x
        alive.append(weakref.ref(estimate))
        most = max(most, sum(ref() is not None for ref in alive))
        return estimate

    def watched(path: Path) -> Path:
        def restore(part: Tensor) -> Tensor:
            wholes.append(path.restore(part))
            return wholes[-1]

        return replace(path, restore=restore)

    paths = [watched(path) for path in sliding_windows((32, 32, 32), (8, 8, 8), 0.5)]
    assert len(paths) == 343
    x = batch_noise((1, 32, 32, 32), 3, 1)
    assert torch.allclose(fuse(spy, paths, max_rows=4)(x, 1.0), 2 * x, atol=1e-5)
    assert len(alive) == 86
    assert most <= 3
    assert len(wholes) == 2


@pytest.mark.parametrize("window", [(32, 32, 32), (16, 24, 9), (1, 5, 8)])
def test_volume_weights_are_those_of_monai(window: tuple[int, int, int]) -> None:
    from monai.data.utils import compute_importance_map

    expected = compute_importance_map(window, mode="gaussian", sigma_scale=0.125)
    weight = sliding_windows((40, 40, 40), window, 0.25)[0].weight
    assert weight.shape == (1, 1, *window)
    assert torch.allclose(weight[0, 0], expected, rtol=1e-5, atol=0)


def test_whole_fusion_agrees_with_monai() -> None:
    """MONAI's sliding-window inference with the same windows: stride, flush last windows, Gaussian weights."""
    from monai.inferers import sliding_window_inference

    x = batch_noise((1, 21, 16, 13), 3, 1)
    ours = fuse(lambda x, sigma: torch.cumsum(x, -1), sliding_windows((21, 16, 13), (8, 8, 8), 0.5), max_rows=4)(x, 1.0)
    theirs = sliding_window_inference(x, (8, 8, 8), 4, lambda x: torch.cumsum(x, -1), overlap=0.5, mode="gaussian", sigma_scale=0.125)
    assert torch.allclose(ours, theirs, atol=1e-4)  # type: ignore[arg-type]


@pytest.mark.parametrize(("size", "window"), [((21, 16), (8, 8)), ((17,), (6,))])
def test_windows_over_fewer_axes_are_monais_too(size: tuple[int, ...], window: tuple[int, ...]) -> None:
    from monai.inferers import sliding_window_inference

    x = torch.randn((2, 3, *size), generator=torch.Generator().manual_seed(0))
    ours = fuse(lambda x, sigma: torch.cumsum(x, -1), sliding_windows(size, window, 0.5), max_rows=4)(x, 1.0)
    theirs = sliding_window_inference(x, window, 4, lambda x: torch.cumsum(x, -1), overlap=0.5, mode="gaussian", sigma_scale=0.125)
    assert torch.allclose(ours, theirs, atol=1e-4)  # type: ignore[arg-type]


def test_windows_of_volumes_that_cannot_be_are_refused() -> None:
    for size, window, overlap in (
        ((8, 8), (4, 4, 4), 0.5),
        ((), (), 0.5),
        ((8, 8, 8), (4, 0, 4), 0.5),
        ((8, 8, 8), (4, 4, 4), 1.0),
        ((8, 8, 8), (4, 4, 4), -0.1),
    ):
        with pytest.raises(InputError):
            sliding_windows(size, window, overlap)
    with pytest.raises(InputError, match="max_rows"):
        fuse(rowwise, sliding_windows((8, 8, 8), (4, 4, 4)), max_rows=0)
    with pytest.raises(ShapeError, match="axis 4 of the sample has length 9"):
        fuse(rowwise, sliding_windows((8, 8, 8), (4, 4, 4)))(torch.zeros(1, 1, 8, 8, 9), 1.0)
