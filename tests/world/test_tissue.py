"""The tissue world: layouts and styles from numbers, pictures with soft borders and two readers, and styles measured back."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calotype.errors import InputError, ShapeError
from calotype.world.tissue import (
    VARIANTS,
    TissueScene,
    measure_style,
    paint_tissue,
    sample_layout,
    sample_style,
    sample_tissue,
)


def scenes(variant: str = "tissue", count: int = 24, **given: object) -> list[TissueScene]:
    return [sample_tissue(variant, split="tune", seed=3, index=index, **given) for index in range(count)]  # type: ignore[arg-type]


@settings(deadline=None, max_examples=12)
@given(st.sampled_from(list(VARIANTS)), st.integers(0, 10**6), st.integers(16, 70), st.booleans())
def test_everything_known_of_a_picture_agrees(variant: str, index: int, size: int, smooth: bool) -> None:
    scene = sample_tissue(variant, split="eval", seed=1, index=index, smooth=smooth)
    made = paint_tissue([scene], size)
    classes = VARIANTS[variant].num_classes
    assert made.image.shape == (1, 3, size, size)
    assert made.mask.shape == (1, size, size)
    assert made.coverage.shape == (1, classes, size, size)
    assert made.annotators.shape == (1, 2, size, size)
    assert bool(torch.isfinite(made.image).all())
    assert float(made.image.min()) >= 0
    assert float(made.image.max()) <= 1
    assert torch.allclose(made.coverage.sum(1), torch.ones(1, size, size), atol=1e-5)
    assert torch.equal(made.mask, made.coverage.argmax(1))
    assert int(made.mask.max()) < classes
    assert int(made.annotators.max()) < classes
    # A reader's border lies within 1 to 99 % of a blob's; where blobs overlap, it is one of several that must be so.
    named = made.coverage.gather(1, made.annotators)
    assert float(named.min()) > 0.009 ** len(scene.layout.blobs), "readers name only what some readers name"
    if smooth:
        assert torch.equal(made.image[:, 0], made.image[:, 2])


def test_a_picture_belongs_to_its_numbers_and_not_to_its_batch() -> None:
    several = scenes(count=5)
    assert several == scenes(count=5)
    together = paint_tissue(several, 48)
    for number, scene in enumerate(several):
        alone = paint_tissue([scene], 48)
        assert torch.allclose(alone.image[0], together.image[number], atol=1 / 255)
        assert torch.equal(alone.mask[0], together.mask[number])
    assert sample_layout(split="train", seed=3, index=0) != sample_layout(split="tune", seed=3, index=0)
    assert sample_style(split="train", seed=3, patient=0) != sample_style(split="tune", seed=3, patient=0)


def test_pictures_of_a_patient_share_the_style_and_not_the_layout() -> None:
    several = scenes(count=8, pictures_per_patient=4)
    assert [scene.patient for scene in several] == [0] * 4 + [1] * 4
    assert len({scene.style for scene in several}) == 2
    assert len({scene.layout for scene in several}) == 8
    with pytest.raises(InputError, match="picture 8 is beyond the 2 x 4 pictures"):
        scenes(count=9, pictures_per_patient=4, patients=2)


def test_a_layout_is_the_same_in_any_style_and_at_any_size() -> None:
    first = scenes(count=1)[0]
    other = dataclasses.replace(first, style=sample_style(split="tune", seed=9, patient=5))
    one, two = paint_tissue([first, other], 64).mask
    assert torch.equal(one, two)
    large = paint_tissue([first], 128).coverage
    halved = torch.nn.functional.avg_pool2d(large, 2)
    assert float((halved - paint_tissue([first], 64).coverage).abs().mean()) < 0.01


def test_the_share_of_readers_is_the_coverage() -> None:
    layouts = [sample_layout("big", split="tune", seed=1, index=index) for index in range(400)]
    style = sample_style(split="tune", seed=1, patient=0)
    made = paint_tissue([TissueScene(layout=layout, style=style, patient=0) for layout in layouts], 24)
    told = (made.annotators == 1).float().mean(1)
    for low, high in ((0.05, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 0.95)):
        within = (made.coverage[:, 1] > low) & (made.coverage[:, 1] < high)
        assert float(told[within].mean()) == pytest.approx(float(made.coverage[:, 1][within].mean()), abs=0.05)


def test_objects_have_the_sizes_of_their_variant() -> None:
    for layout in (scene.layout for scene in scenes("big", 40)):
        assert len(layout.blobs) == 1
        assert 0.18 <= layout.blobs[0].radius <= 0.30
    for layout in (scene.layout for scene in scenes("small", 40)):
        assert 10 <= len(layout.blobs) <= 16
        assert all(0.03 <= blob.radius <= 0.06 for blob in layout.blobs)
        assert all(
            math.hypot(one.x - two.x, one.y - two.y) > one.radius + two.radius
            for number, one in enumerate(layout.blobs)
            for two in layout.blobs[:number]
        )
    masks = paint_tissue(scenes(count=100), 64).mask
    for label, least in ((0, 0.3), (1, 0.1), (2, 0.2)):
        assert float((masks == label).float().mean()) > least


def test_a_style_is_measured_back() -> None:
    several = scenes(count=120, pictures_per_patient=1)
    made = paint_tissue(several, 64)
    measures = measure_style((made.image * 255).round() / 255, made.mask)
    for name, bar in (("hue", 0.99), ("second_hue", 0.99), ("tint", 0.99), ("contrast", 0.95), ("frequency", 0.95)):
        found = getattr(measures, name)
        truth = torch.tensor([scene.truth[name] for scene in several], dtype=torch.float64)
        known = ~torch.isnan(found)
        assert int(known.sum()) >= 110
        assert float(torch.corrcoef(torch.stack([found[known], truth[known]]))[0, 1]) > bar, name
    assert float((measures.hue - torch.tensor([scene.style.hue for scene in several])).abs().nanmean()) < 0.01


def test_measures_belong_to_the_picture_and_the_mask() -> None:
    several = scenes(count=60, pictures_per_patient=1)
    made = paint_tissue(several, 64)
    truth = torch.tensor([scene.style.hue for scene in several], dtype=torch.float64)
    shuffled = measure_style(made.image.roll(1, 0), made.mask.roll(1, 0)).hue
    assert abs(float(torch.corrcoef(torch.stack([shuffled, truth]))[0, 1])) < 0.35
    nothing = measure_style(made.image[:2], torch.zeros_like(made.mask[:2]))
    assert bool(torch.isnan(nothing.hue).all())
    with pytest.raises(ShapeError, match=r"give \[N, 3, H, W\] and \[N, H, W\]"):
        measure_style(made.image, made.mask[0])


def test_noise_is_as_strong_as_it_says() -> None:
    clean, noisy = (paint_tissue(scenes("big", 6, smooth=True, noise=noise), 64).image for noise in (0.0, 0.03))
    assert float((noisy - clean).std()) == pytest.approx(0.03, rel=0.05)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"variant": "huge"}, "there is no variant 'huge' of the tissue world; choose one of: tissue, big, small"),
        ({"split": "test"}, "there is no split 'test'"),
        ({"index": -1}, "must be 0 or more"),
        ({"hues": (0.4, 0.2)}, "hues are 0.4 to 0.2"),
        ({"noise": 2.0}, "the noise is 2"),
        ({"pictures_per_patient": 0}, "give 1 or more"),
    ],
)
def test_refusals(given: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        sample_tissue(**{"split": "tune", "seed": 0, "index": 0, **given})  # type: ignore[arg-type]


def test_what_cannot_be_painted_together_is_refused() -> None:
    with pytest.raises(InputError, match="scenes of one variant are painted together, not big, tissue"):
        paint_tissue([scenes("big", 1)[0], scenes(count=1)[0]])
    with pytest.raises(InputError, match="size must be 16 to 2048, not 8"):
        paint_tissue(scenes(count=1), 8)
