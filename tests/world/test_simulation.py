"""The quasi-static lift test against pybullet, where that is installed (extra `sim`; CPython 3.11 on Linux)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from calotype.core.grippers import Gripper
from calotype.world.critters.grasping import RAISED, Things, lift
from calotype.world.critters.primitives import Capsule
from calotype.world.critters.sampling import sample_critter_scene

pytest.importorskip("pybullet", reason="pybullet is in the extra sim")


def grasp(things: Things, part: str, rng: np.random.Generator) -> tuple[torch.Tensor, float]:
    """From above, across a part of the first critter, not quite in its middle."""
    solid = next(solid for solid in things[0] if solid.part == part)
    assert isinstance(solid, Capsule)
    start, end = np.array(solid.start), np.array(solid.end)
    along = end - start if part != "head" else np.array([1.0, 0.0, 0.0])
    z = rng.normal(scale=0.3, size=3) - [0.0, 0.0, 1.0]
    z /= np.linalg.norm(z)
    y = np.cross(z, along / np.linalg.norm(along)) + rng.normal(scale=0.1, size=3)
    y -= (y @ z) * z
    y /= np.linalg.norm(y)
    pose = np.eye(4)
    pose[:3, 0], pose[:3, 1], pose[:3, 2] = np.cross(y, z), y, z
    pose[:3, 3] = start + rng.uniform(0.6, 1.2) * (end - start) + rng.normal(scale=0.003, size=3)
    return torch.tensor(pose), 2 * solid.radius + 0.015


def test_both_say_the_same_of_most_grasps() -> None:
    from calotype.world.critters.simulation import simulate_lift

    rng, gripper = np.random.default_rng(1), Gripper.wsg50()
    quasi_static, simulated = [], []
    for index in range(32):
        scene = sample_critter_scene(split="tune", seed=5, index=index)
        things = [*(critter.primitives() for critter in scene.critters), *((solid,) for solid in scene.distractors)]
        pose, width = grasp(things, ("arm_left", "head", "tail", "arm_right")[index % 4], rng)
        tried = lift(things, gripper, pose, width)
        if tried.reason.startswith("the pads touch two"):
            continue  # the simulator may raise both
        quasi_static.append(tried.raised)
        simulated.append(simulate_lift(things, gripper, pose, width)[0] > RAISED)
    both = np.array([quasi_static, simulated])
    assert (both[0] == both[1]).mean() >= 0.8
    assert 0.25 <= both[1].mean() <= 0.75, "neither easy nor hopeless, so that agreement says something"
