"""The gates' measures on clips and pictures whose answer is known."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import calotype
from calotype.embedded import validation_i2v, validation_t2i, validation_vae
from calotype.embedded.validation_i2v import goes_nose_first, moved, scenes
from calotype.embedded.validation_t2i import attention_iou, visible_mask, word_map
from calotype.world import paint, sample_scene
from tests.tolerance import ENDS, close, in_float64


def test_true_directed_clips_go_nose_first_and_reversed_ones_do_not() -> None:
    wanted = scenes("tune", 4, 12, ("directed",))
    clips = paint(wanted, num_frames=8)
    assert all(goes_nose_first(scene, clip) for scene, clip in zip(wanted, clips, strict=True))
    assert not any(goes_nose_first(scene, clip.flip(0)) for scene, clip in zip(wanted, clips, strict=True))


@pytest.mark.parametrize("motion", ["straight", "arc", "bounce", "directed"])
def test_true_clips_move_and_frozen_ones_do_not(motion: str) -> None:
    wanted = scenes("tune", 5, 6, (motion,))
    clips = paint(wanted, num_frames=8)
    assert all(moved(scene, clip) for scene, clip in zip(wanted, clips, strict=True))
    assert not any(moved(scene, clip[:1].expand_as(clip)) for scene, clip in zip(wanted, clips, strict=True))


def test_the_visible_mask_is_the_part_that_no_other_object_covers() -> None:
    scene = next(one for one in (sample_scene("small", split="tune", seed=2, index=i) for i in range(50)) if len(one.objects) == 2)
    masks = [visible_mask(scene, number) for number in (0, 1)]
    assert all(bool(mask.any()) for mask in masks)
    assert not bool((masks[0] & masks[1]).any())


def test_word_maps_leave_the_model_as_it_was(family: Path) -> None:
    model = calotype.load(str(family / "toy-t2i"), device="cpu", dtype="float32")
    before = {name: type(processor) for name, processor in model.unet.attn_processors.items()}
    scene = sample_scene("small", split="tune", seed=2, index=0)
    values = word_map(model, scene)
    assert values.shape == (64, 64)
    assert bool((values >= 0).all())
    assert {name: type(processor) for name, processor in model.unet.attn_processors.items()} == before
    assert 0.0 <= attention_iou(model, [scene]) <= 1.0


def test_an_untrained_autoencoder_fails_its_gate(family: Path) -> None:
    figures = validation_vae.validate(family / "toy-vae", seed=1, count=8, device="cpu")
    assert figures["psnr_db"] < 29.0
    assert figures["latent_condition"] >= 1.0


def test_clips_are_sampled_from_their_own_first_frames_and_noise(family: Path) -> None:
    model = in_float64(calotype.load(str(family / "toy-i2v"), device="cpu", dtype="float32"))
    wanted = scenes("tune", 6, 3)
    starts = paint(wanted)
    together = validation_i2v.sample(model, starts, wanted, range(3), steps=2)
    assert together.shape == (3, 8, 3, 64, 64)
    alone = validation_i2v.sample(model, starts[1:2], wanted[1:2], [1], steps=2)
    close(together[1:2], alone, depth=2 * ENDS, scale=2 * validation_i2v.MAX_GUIDANCE)


def test_pictures_depend_on_their_own_seed_alone(family: Path) -> None:
    model = in_float64(calotype.load(str(family / "toy-t2i"), device="cpu", dtype="float32"))
    together = validation_t2i.sample(model, ["a red ball on sand"] * 2, [5, 6], steps=2)
    assert not torch.allclose(together[0], together[1], atol=1e-2)
    close(
        together[1:], validation_t2i.sample(model, ["a red ball on sand"], [6], steps=2), depth=2 * ENDS, scale=2 * validation_t2i.GUIDANCE
    )
    assert math.isclose(float(together.min().clamp(min=0)), float(together.min()))
