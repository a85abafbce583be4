"""The proof of CMD: what clips are measured against, rows that must differ do, and its claims can fail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

import calotype
from calotype.core.events import SILENT
from calotype.evaluation.cmd import claims
from calotype.evaluation.cmd_cost import Cost, content_motion_cost
from calotype.evaluation.cmd_generation import GenerationExperiment, shuffled
from calotype.evaluation.cmd_reconstruction import ReconstructionExperiment, cross_measures
from calotype.evaluation.experiment import ResultTable
from calotype.evaluation.moving_clips import MovingClip, moving_clips, share_inside
from calotype.methods.cmd import CMD
from calotype.metrics import Interval
from calotype.world import paint
from calotype.world.moving import sample_moving
from tests.tiny_cmd import cached_cmd_model


@pytest.fixture(scope="module")
def model() -> Any:
    return calotype.load(str(cached_cmd_model()), device="cpu")


def test_a_true_clip_is_right_and_another_is_not() -> None:
    one, other = moving_clips("tune", 3, 2)
    assert one.measure(one.frames) == {"psnr_db": 99.0, "swept_psnr_db": 99.0, "path_error_px": 0.0}
    wrong = one.measure(other.frames)
    assert wrong["psnr_db"] < 20
    assert wrong["path_error_px"] > 5
    still = one.frames[:1].expand(8, -1, -1, -1)
    assert one.measure(still)["psnr_db"] > one.measure(still)["swept_psnr_db"]


def test_swept_masks_hold_every_object_in_every_frame() -> None:
    for variant in ("straight", "diagonal", "crossing"):
        (clip,) = moving_clips("tune", 4, 1, variant)
        assert not (clip.truth.masks.any(1) & ~clip.swept).any()
        changes = (clip.frames - clip.frames[:1]).abs().sum((0, 1)) > 0
        assert share_inside(changes.float(), clip.swept) == 1.0


@pytest.mark.parametrize("index", range(3))
def test_cross_measures_tell_whose_path_it_is(index: int) -> None:
    clip = MovingClip(moving_clips("tune", 5, 3)[index].scene, index)
    other = clip.redirected()
    assert other.scene.direction != clip.scene.direction
    followed, ignored = cross_measures(clip, other, other.frames), cross_measures(clip, other, clip.frames)
    assert followed["motion_path_error_px"] < 0.01 < 2.0 < followed["content_path_error_px"]
    assert ignored["content_path_error_px"] < 0.01 < 2.0 < ignored["motion_path_error_px"]
    assert followed["ground_psnr_db"] == 99.0


def test_every_row_is_there_and_rows_that_must_differ_do(model: Any) -> None:
    table = ReconstructionExperiment(model, 0, SILENT)
    straight, diagonal, crossing = (moving_clips("tune", 6, 2, variant) for variant in ("straight", "diagonal", "crossing"))
    with torch.inference_mode():
        table.reconstructions(straight, diagonal, crossing)
        table.content_frames(straight)
        table.cross_decoding(straight)
    rows = {row.variant: row.metrics for row in table.rows}
    of = [rows[f"{name}@diagonal"]["psnr_db"] for name in ("reconstruction", "content-repeated", "rows-only", "columns-only")]
    assert len(set(of)) == 4
    assert rows["uniform-mean@straight"] != rows["middle-frame@straight"] != rows["reconstruction@straight"]
    assert rows["still-clip"]["content_error"] == 0.0
    assert set(rows) >= {"content-frame", "cross-decoded", "cross-decoded@other-thing", "reconstruction@crossing"}


def test_costs_grow_with_what_they_count(model: Any) -> None:
    eight, sixteen, half = content_motion_cost(model, 8, 2), content_motion_cost(model, 16, 2), content_motion_cost(model, 8, 1)
    assert eight["content"].gigaflop == sixteen["content"].gigaflop == 2 * half["content"].gigaflop
    assert sixteen["decoder"].gigaflop > 1.9 * eight["decoder"].gigaflop
    assert sixteen["motion"].gigaflop > eight["motion"].gigaflop
    assert sum(eight.values(), Cost(0.0, 0.0)).seconds > 0


def pixels(clips: torch.Tensor) -> torch.Tensor:
    """Stands for a network's features: mean colour of quarters of the picture in the first and the last frame."""
    ends = clips[:, [0, -1]].flatten(0, 1)
    return torch.nn.functional.adaptive_avg_pool2d(ends, 2).flatten(1).view(len(clips), -1)[:, ::3]


def generation(model: Any) -> GenerationExperiment:
    method = CMD(num_inference_steps=1, num_motion_steps=1, guidance_scale=1.0)
    return GenerationExperiment(
        model, method, pixels, paint([sample_moving(split="tune", seed=9, index=i) for i in range(24)], num_frames=8), 0, SILENT
    )


def test_true_clips_agree_with_their_captions_and_not_with_others(model: Any) -> None:
    table, items = generation(model), moving_clips("tune", 8, 20)
    frames = torch.stack([item.frames for item in items])
    table.features["method"] = table._features_of(frames)
    table._add_judged("method", "method", items, frames)
    table._add_judged("shuffled-captions", "ablation", shuffled(items), frames)
    rows = {row.variant: row.metrics for row in table.rows}
    assert rows["method"]["words"] > 0.9 < rows["method"]["direction"]
    assert rows["shuffled-captions"]["words"] < 0.3
    assert rows["shuffled-captions"]["direction"] < 0.6
    assert "clip_distance" in rows["method"]
    assert "clip_distance" not in rows["shuffled-captions"]


def test_noise_is_further_than_true_clips(model: Any) -> None:
    table, items = generation(model), moving_clips("tune", 8, 20)
    frames = torch.stack([item.frames for item in items])
    for name, clips in (("near", frames), ("far", frames + torch.linspace(-1.5, 1.5, 20).view(-1, 1, 1, 1, 1)), ("same", frames)):
        table.features[name] = table._features_of(clips)
    assert table.further("far", "near").low > 0
    assert table.further("near", "far").high < 0
    assert table.further("same", "near") == Interval(0.0, 0.0, 0.0)


def test_every_row_of_made_clips_is_there(model: Any) -> None:
    table, items = generation(model), moving_clips("tune", 6, 20)
    with torch.inference_mode():
        table.generations(items)
    assert [row.variant for row in table.rows] == [
        "image-autoencoder", "reconstruction", "true-content", "method", "shuffled-captions", "other-content-tokens",
    ]  # fmt: skip
    assert all(row.n == 20 for row in table.rows)


SCENES = 48


def scenes(**means: float) -> list[dict[str, float]]:
    """Numbers that scatter a little around means; shares are drawn as 0 and 1."""
    rng = np.random.default_rng(0)
    made = {
        name: (
            rng.permutation(np.arange(SCENES) < round(mean * SCENES)).astype(float)
            if 0 < mean < 1
            else mean + 0.01 * rng.normal(size=SCENES)
        )
        for name, mean in means.items()
    }
    return [{name: float(values[row]) for name, values in made.items()} for row in range(SCENES)]


GOOD: Mapping[str, list[dict[str, float]]] = {
    **{f"reconstruction@{name}": scenes(psnr_db=29.0) for name in ("straight", "diagonal")},
    **{f"content-repeated@{name}": scenes(psnr_db=20.0) for name in ("straight", "diagonal")},
    "rows-only@diagonal": scenes(psnr_db=24.0), "columns-only@diagonal": scenes(psnr_db=24.0),
    "still-clip": [{"content_error": 0.0}] * SCENES,
    "content-frame": [{"static_psnr_db": 40.0, "ghosts_inside": 0.98}] * SCENES,
    "cross-decoded": scenes(motion_path_error_px=2.0, content_path_error_px=9.0),
}  # fmt: skip


def failing(rows: Mapping[str, list[dict[str, float]]]) -> list[str]:
    table = ResultTable()
    for variant, numbers in rows.items():
        table.add(variant, "method", numbers)
    return [claim.claim for claim in claims(table) if not claim.holds]


def test_claims_hold_and_fail() -> None:
    assert failing(GOOD) == []
    for variant, worse, words in (
        ("reconstruction@straight", scenes(psnr_db=25.0), "straight motion"),
        ("rows-only@diagonal", scenes(psnr_db=28.0), "rows alone"),
        ("columns-only@diagonal", scenes(psnr_db=28.0), "columns alone"),
        ("still-clip", [{"content_error": 1e-3}] * SCENES, "still clip"),
        ("content-frame", [{"static_psnr_db": 25.0, "ghosts_inside": 0.98}] * SCENES, "30 dB"),
        ("content-frame", [{"static_psnr_db": 40.0, "ghosts_inside": 0.9}] * SCENES, "ghosts"),
        ("cross-decoded", scenes(motion_path_error_px=6.0, content_path_error_px=9.0), "motion's path"),
    ):
        failed = failing({**GOOD, variant: worse})
        assert len(failed) == 1, (variant, failed)
        assert words in failed[0]


def test_another_models_motion_stands_beside_on_the_same_content_frames(model: Any) -> None:
    items, table = moving_clips("tune", 6, 2), generation(model)
    with torch.inference_mode():
        found = table.from_true_content(items, 5, SILENT)
        assert torch.equal(table.from_true_content(items, 5, SILENT, blind=model), found)
        assert not torch.equal(table.from_other_content(items, 5, SILENT), found)
