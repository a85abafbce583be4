"""Ground truths agree with the painting and with each other."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import grid_sample

from calotype.errors import InputError
from calotype.world import Scene, ground_truth, paint, sample_scene, without
from calotype.world.scenes.truth import GroundTruth

SCENES = [sample_scene("full", seed=20, index=index, num_frames=5) for index in range(12)] + [
    sample_scene("small", seed=20, index=index, num_frames=5) for index in range(8)
]


@pytest.fixture(scope="module")
def truths() -> list[GroundTruth]:
    return [ground_truth(scene, 64) for scene in SCENES]


def test_layers_over_the_ground_are_the_painting(truths: list[GroundTruth]) -> None:
    painted = paint(SCENES, num_frames=5)
    for truth, clip in zip(truths, painted, strict=True):
        composed = truth.background
        for layer in truth.layers.unbind(1):
            composed = composed * (1.0 - layer[:, 3:]) + layer[:, :3] * layer[:, 3:]
        assert (composed - clip).abs().max() < 1e-3
        assert (truth.frames - clip).abs().max() < 1e-4


def test_masks_depth_and_parts_agree(truths: list[GroundTruth]) -> None:
    for truth in truths:
        assert torch.equal(truth.masks.any(1), truth.depth > 0)
        assert int(truth.masks.sum(1).max()) <= 1
        assert not (truth.masks & ~truth.full_masks).any()
        assert torch.equal(truth.parts > 0, (truth.full_parts > 0) & truth.masks)
        for number, names in enumerate(truth.part_names):
            assert int(truth.full_parts[:, number].max()) <= len(names)
            front = truth.full_masks[:, number + 1 :].any(1)
            assert torch.equal(truth.masks[:, number], truth.full_masks[:, number] & ~front)
            if truth.scene.style != "outlined":  # an ink line belongs to no part
                assert ((truth.full_parts[:, number] > 0) & truth.full_masks[:, number]).sum() > 0.9 * truth.full_masks[:, number].sum()


def test_every_named_part_is_somewhere() -> None:
    from calotype.world.painting.shapes import CATEGORIES

    for category, made in CATEGORIES.items():
        truth = ground_truth(_lone(category), 96)
        assert set(truth.full_parts.unique().tolist()) == set(range(len(made.parts) + 1)), category


def _lone(category: str) -> Scene:
    from calotype.world import SceneObject

    ground = sample_scene("small", seed=0, index=0, objects=0)
    thing = SceneObject(category=category, colour="red", x=0.5, y=0.5, radius=0.4)
    return Scene(objects=(thing,), background=ground.background, mentions=(0,))


def test_the_clean_ground_is_the_scene_without_its_objects(truths: list[GroundTruth]) -> None:
    for scene, truth in zip(SCENES, truths, strict=True):
        empty = scene
        for _ in scene.objects:
            empty = without(empty, 0)
        assert (paint([empty], num_frames=5)[0] - truth.background).abs().max() < 1e-4


def _look_up(frame: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """The next frame, read where the flow says that each pixel goes."""
    size = frame.shape[-1]
    middles = torch.arange(size) + 0.5
    goal = torch.stack([middles[None] + flow[0], middles[:, None] + flow[1]], dim=-1) / size * 2.0 - 1.0
    return grid_sample(frame[None], goal[None], mode="bicubic", padding_mode="border", align_corners=False)[0]


def test_flow_carries_each_frame_to_the_next(truths: list[GroundTruth]) -> None:
    """Away from edges, where a pixel mixes things that move differently, the pixel's goal shows the pixel's colour."""
    moved = 0
    for truth in truths:
        for step, flow in enumerate(truth.flow):
            unsure = torch.nn.functional.max_pool2d(_edges(truth, step).float()[None], 5, 1, 2)[0] > 0
            sure = ~(truth.occluded[step] | unsure)
            error = (_look_up(truth.frames[step + 1], flow) - truth.frames[step]).abs().amax(0)
            moved += int((sure & (flow.square().sum(0) > 0.25)).sum())
            assert error[sure].mean() < 0.01
            assert error[sure].quantile(0.99) < 0.12
    assert moved > 20_000


def _edges(truth: GroundTruth, step: int) -> torch.Tensor:
    """Pixels beside another thing, in this frame or at their goal in the next."""

    def edges(depth: torch.Tensor) -> torch.Tensor:
        most = torch.nn.functional.max_pool2d(depth.float()[None], 3, 1, 1)[0]
        least = -torch.nn.functional.max_pool2d(-depth.float()[None], 3, 1, 1)[0]
        return most != least

    there = _look_up(edges(truth.depth[step + 1]).float()[None], truth.flow[step])[0] > 0.05
    return edges(truth.depth[step]) | there


def test_affine_motion_carries_positions(truths: list[GroundTruth]) -> None:
    for truth in truths:
        ones = torch.ones_like(truth.positions[:-1, :, :1])
        carried = torch.einsum("fnij,fnj->fni", truth.motion, torch.cat([truth.positions[:-1], ones], -1))
        assert (carried - truth.positions[1:]).abs().max() < 1e-3


def test_flow_of_a_still_scene_is_zero() -> None:
    truth = ground_truth(sample_scene("small", seed=1, index=0, num_frames=3, motion="still", camera="still"), 32)
    assert truth.flow.abs().max() < 1e-4
    assert not truth.occluded.any()


def test_a_still_picture_has_no_steps() -> None:
    truth = ground_truth(sample_scene("small", seed=1, index=0), 32)
    assert truth.flow.shape == (0, 2, 32, 32)
    assert truth.motion.shape[0] == truth.camera_motion.shape[0] == 0


def test_an_empty_scene_has_its_ground() -> None:
    truth = ground_truth(sample_scene("full", seed=1, index=0, objects=0, num_frames=2), 32)
    assert truth.layers.shape == (2, 0, 4, 32, 32)
    assert torch.equal(truth.frames, truth.background)
    assert not truth.depth.any()


@pytest.mark.parametrize("options", [{"size": 4}, {"num_frames": 0}])
def test_refusals(options: dict[str, int]) -> None:
    with pytest.raises(InputError):
        ground_truth(SCENES[0], **options)
