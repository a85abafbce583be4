"""CMD's reconstruction rows: what they are measured against, and that rows which must differ do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from calotype.backbones.autoencoder import LatentSpace
from calotype.backbones.content_motion_network import ContentMotionAutoencoder, MotionDiT
from calotype.core.events import SILENT
from calotype.evaluation.cmd_cost import Cost, content_motion_cost
from calotype.evaluation.cmd_reconstruction import ReconstructionExperiment, cross_measures
from calotype.evaluation.moving_clips import MovingClip, moving_clips, share_inside


class Model:
    """The parts that the rows ask for, at small width, with random weights."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        from diffusers import AutoencoderKL, UNet2DConditionModel

        with torch.random.fork_rng():
            torch.manual_seed(3)
            widths: dict[str, Any] = {"block_out_channels": (8, 8), "norm_num_groups": 4, "sample_size": 64}
            blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
            self.space = LatentSpace(AutoencoderKL(**widths, **blocks).eval(), self.device)
            self.autoencoder = ContentMotionAutoencoder(width=16, depth=1, heads=2, motion_channels=2).eval()
            torch.nn.init.normal_(self.autoencoder.leave.weight, std=0.2)
            size: dict[str, Any] = {"num_frames": 8, "rows": 16, "columns": 16, "content_size": (32, 32)}
            self.motion_network = MotionDiT(motion_channels=2, width=16, depth=1, heads=2, **size)
            self.unet = UNet2DConditionModel(
                sample_size=32, block_out_channels=(8, 8), norm_num_groups=4, cross_attention_dim=8, attention_head_dim=2, layers_per_block=1,
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            ).eval()  # fmt: skip

    def encode_clips(self, clips: Tensor) -> Tensor:
        return self.space.encode(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])

    def decode_clips(self, latents: Tensor) -> Tensor:
        return self.space.decode(latents.flatten(0, 1)).unflatten(0, latents.shape[:2])


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


def test_every_row_is_there_and_rows_that_must_differ_do() -> None:
    table = ReconstructionExperiment(Model(), 0, SILENT)
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


def test_costs_grow_with_what_they_count() -> None:
    model = Model()
    eight, sixteen, half = content_motion_cost(model, 8, 2), content_motion_cost(model, 16, 2), content_motion_cost(model, 8, 1)
    assert eight["content"].gigaflop == sixteen["content"].gigaflop == 2 * half["content"].gigaflop
    assert sixteen["decoder"].gigaflop > 1.9 * eight["decoder"].gigaflop
    assert sixteen["motion"].gigaflop > eight["motion"].gigaflop
    assert sum(eight.values(), Cost(0.0, 0.0)).seconds > 0
