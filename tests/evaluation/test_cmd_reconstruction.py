"""CMD's reconstruction rows: what they are measured against, and that rows which must differ do."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import calotype
from calotype.core.events import SILENT
from calotype.evaluation.cmd_cost import Cost, content_motion_cost
from calotype.evaluation.cmd_reconstruction import ReconstructionExperiment, cross_measures
from calotype.evaluation.moving_clips import MovingClip, moving_clips, share_inside
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
