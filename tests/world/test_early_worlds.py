"""Landscapes, portraits and critters: pictures from numbers, with what is known of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch.nn import functional

from calotype.errors import InputError
from calotype.world import ground_truth, paint
from calotype.world.critters.drawing import IDENTITIES, sample_critters
from calotype.world.landscapes.dataset import write_landscapes
from calotype.world.landscapes.drawing import (
    CODE,
    LAND,
    SKY,
    WATER,
    landscape_code,
    landscape_of,
    paint_landscapes,
    sample_landscape,
)
from calotype.world.portraits.drawing import PARTS, SKIN_TONES, paint_portraits, sample_portrait

KEY = {"split": "tune", "seed": 4}


def test_water_and_clouds_move_along_the_motion_field() -> None:
    landscapes = [dataclasses.replace(sample_landscape(**KEY, index=index), dusk=0.1, cover=0.1) for index in range(24)]  # type: ignore[arg-type]
    now, later = (paint_landscapes(landscapes, 64, time=time) for time in (0.0, 1.0))
    assert torch.equal(now.mask, later.mask)
    for value in (LAND, SKY, WATER):
        assert float((now.mask == value).float().mean()) > 0.1
    still = (now.mask == LAND)[:, None]
    assert float((now.motion * still).abs().max()) == 0
    inside = -functional.max_pool2d(-(now.mask != LAND).float()[:, None], 9, stride=1, padding=4) > 0
    kinds = {"sky": inside[:, 0] & (now.mask == SKY), "water": inside[:, 0] & (now.mask == WATER)}
    for name, where in kinds.items():
        error = {}
        for sign in (1.0, 0.0, -1.0):
            error[sign] = float(((_moved(now.image, now.motion * sign) - later.image).square().mean(1) * where).sum() / where.sum())
        assert error[1.0] < 0.35 * error[-1.0], name
        assert error[1.0] < 0.35 * error[0.0] or name == "sky", "the clouds move, and the sky's own colours don't"


def _moved(pictures: torch.Tensor, motion: torch.Tensor) -> torch.Tensor:
    """Pictures a frame later, as `motion` has it."""
    size = pictures.shape[-1]
    steps = (torch.arange(size) + 0.5) / size * 2 - 1
    grid = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1) - motion.permute(0, 2, 3, 1) * 2 / size
    return functional.grid_sample(pictures, grid, mode="bicubic", padding_mode="border", align_corners=False)


def test_landscapes_look_the_same_at_any_size() -> None:
    landscapes = [sample_landscape(**KEY, index=index) for index in range(6)]  # type: ignore[arg-type]
    large, small = paint_landscapes(landscapes, 128), paint_landscapes(landscapes, 64)
    assert float((functional.avg_pool2d(large.image, 2) - small.image).abs().mean()) < 0.02
    assert float((functional.avg_pool2d(large.motion, 2) / 2 - small.motion).abs().mean()) < 0.05


def test_a_landscape_follows_its_code() -> None:
    codes = torch.tensor([landscape_code(**KEY, index=index) for index in range(200)])  # type: ignore[arg-type]
    assert codes.shape == (200, CODE)
    assert float(codes.mean().abs()) < 0.02
    assert abs(float(codes.std()) - 1) < 0.02
    assert landscape_of(codes[0].tolist()).ridges == sample_landscape(**KEY, index=0).ridges  # type: ignore[arg-type]
    nudged = codes[:20] + 0.01 * torch.randn(20, CODE, generator=torch.Generator().manual_seed(0))
    was, now = (paint_landscapes([landscape_of(code) for code in some.tolist()], 64).image for some in (codes[:20], nudged))
    assert float((was - now).abs().flatten(1).mean(1).median()) < 0.01


def test_landscapes_differ_in_horizon_and_colour() -> None:
    some = [sample_landscape(**KEY, index=index) for index in range(100)]  # type: ignore[arg-type]
    assert min(one.horizon for one in some) < 0.35
    assert max(one.horizon for one in some) > 0.65
    assert all((one.wind[0] > 0) == (one.sun < 0) for one in some)


def test_landscapes_on_disk_hold_the_truth(tmp_path: Path) -> None:
    folder = write_landscapes(tmp_path / "lakes", split="tune", seed=4, count=2, num_frames=3, size=64)
    made = paint_landscapes([sample_landscape(**KEY, index=index) for index in range(2)], 64, time=2)  # type: ignore[arg-type]
    for index in range(2):
        mask = np.asarray(PIL.Image.open(folder / "masks" / f"{index:06d}.png"))
        assert np.array_equal(mask, np.array([0, 127, 255])[made.mask[index].numpy()])
        assert np.array_equal(np.load(folder / "motion" / f"{index:06d}.npy"), made.motion[index].numpy())
        last = np.asarray(PIL.Image.open(folder / "frames" / f"{index:06d}" / "0002.png")).transpose(2, 0, 1) / 255
        assert float(np.abs(last - made.image[index].numpy()).max()) <= 1 / 255
    with pytest.raises(InputError, match="holds files already"):
        write_landscapes(folder)
    with pytest.raises(InputError, match="16 to 2048 px"):
        write_landscapes(tmp_path / "small", size=8)


def test_a_portrait_keeps_everything_but_its_style() -> None:
    photo, drawing = (sample_portrait(**KEY, index=7, style=style) for style in ("photo", "webtoon"))  # type: ignore[arg-type]
    assert dataclasses.replace(photo, style="webtoon") == drawing
    assert photo.caption == drawing.caption
    made = paint_portraits([photo, drawing], 64)
    for part in ("background", "skin", "cloth"):
        both = (made.parts == PARTS.index(part)).float()
        assert float((both[0] * both[1]).sum() / both.amax(0).sum()) > 0.9


def test_skin_is_as_dark_as_its_tone() -> None:
    base = dataclasses.replace(sample_portrait(**KEY, index=3, style="photo"), light=1.0, side=0.0)  # type: ignore[arg-type]
    made = paint_portraits([dataclasses.replace(base, tone=tone) for tone in range(len(SKIN_TONES))], 64)
    weight = (made.skin > 0.99)[:, None].float()
    tones = (made.image * weight).sum((2, 3)) / weight.sum((2, 3))
    assert bool((tones.diff(dim=0) < 0).all())
    assert float((tones - torch.tensor(SKIN_TONES)).abs().mean()) < 0.08
    assert bool(((made.parts == PARTS.index("skin")) | (made.skin < 0.51)).all())


def test_critters_are_different_and_known() -> None:
    scenes = [sample_critters(**KEY, index=index) for index in range(60)]  # type: ignore[arg-type]
    for scene in scenes:
        words = [thing.words for thing in scene.objects]
        assert len(set(words)) == len(words)
        assert set(words) <= set(IDENTITIES)
    assert {len(scene.objects) for scene in scenes} == {1, 2, 3}
    truth = ground_truth(scenes[0], 64)
    assert len(truth.masks) > 0
    assert torch.allclose(paint([scenes[0]], size=64)[0], truth.frames[0], atol=1 / 255)


@pytest.mark.parametrize("sample", [sample_landscape, sample_portrait, sample_critters])
def test_refusals(sample: Callable[..., object]) -> None:
    with pytest.raises(InputError, match="there is no split 'test'"):
        sample(split="test", seed=0, index=0)
    with pytest.raises(InputError, match="must be 0 or more"):
        sample(split="tune", seed=0, index=-1)


def test_sizes_and_styles_are_checked() -> None:
    with pytest.raises(InputError, match="16 to 2048 px"):
        paint_landscapes([sample_landscape(split="tune", seed=0, index=0)], 8)
    with pytest.raises(InputError, match="3 numbers; a landscape is made of 128"):
        landscape_of([0.0] * 3)
    with pytest.raises(InputError, match="give at least one"):
        paint_portraits([], 64)
    with pytest.raises(InputError, match="there is no style 'oil' of portraits"):
        sample_portrait(split="tune", seed=0, index=0, style="oil")
