"""The lift test: contacts against closed forms, what must fail fails, and the whole against a simulator of rigid bodies."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calotype.core.grippers import Gripper
from calotype.world.critters.grasping import SLACK, Physics, balance, lift
from calotype.world.critters.primitives import Box, Capsule, Vector

RED: Vector = (1.0, 0.0, 0.0)
PANDA = Gripper.panda()


def ball(place: Vector, radius: float) -> Capsule:
    return Capsule(start=place, end=place, radius=radius, colour=RED)


def can(start: Vector, end: Vector, radius: float = 0.02) -> Capsule:
    return Capsule(start=start, end=end, radius=radius, colour=RED)


def down(x: float, y: float, z: float, yaw: float = 0.0) -> torch.Tensor:
    """From above; closes along y turned by the yaw."""
    cosine, sine = math.cos(yaw), math.sin(yaw)
    return torch.tensor([[cosine, sine, 0, x], [sine, -cosine, 0, y], [0, 0, -1, z], [0, 0, 0, 1.0]], dtype=torch.float64)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.012, 0.035), st.floats(-3.1, 3.1))
def test_the_opening_decides_to_a_millimetre_whether_the_fingers_pass_a_ball(radius: float, yaw: float) -> None:
    things = [[ball((0.0, 0.0, radius), radius)]]
    assert lift(things, PANDA, down(0, 0, radius, yaw), 2 * radius + 0.001).raised
    narrow = lift(things, PANDA, down(0, 0, radius, yaw), 2 * radius - 2 * SLACK - 0.001)
    assert narrow.reason == "the gripper meets thing 0 before it closes"


def test_contacts_on_a_ball_are_antipodal_up_to_the_angle_of_friction() -> None:
    # A pad whose edge is `beyond` above the middle of a ball touches it where the normal is asin(beyond / radius) off the closing axis.
    radius, edge = 0.03, PANDA.pad_half[1]
    for friction in (0.2, 0.5, 1.0):
        steepest = radius * math.sin(math.atan(friction))
        for beyond, holds in ((0.9 * steepest, True), (1.1 * steepest, False)):
            found = lift(
                [[ball((0.0, 0.0, radius), radius)]], PANDA, down(0, 0, radius + beyond + edge), 0.079, physics=Physics(friction=friction)
            )
            assert found.raised == holds
            assert holds or found.reason == "the pads slip off"


def test_a_box_is_held_by_its_faces_and_not_by_its_corners() -> None:
    def box(yaw: float) -> list[Box]:
        return [Box(centre=(0.0, 0.0, 0.03), half=(0.025, 0.025, 0.03), yaw=yaw, colour=RED)]

    for turn in (0.0, 0.3, 1.1):
        assert lift([box(turn)], PANDA, down(0, 0, 0.04, turn), 0.06).raised
    assert lift([box(0.6)], PANDA, down(0, 0, 0.04), 0.06).reason == "the gripper meets thing 0 before it closes"


def test_the_pads_turn_a_thing_that_lies_slightly_askew() -> None:
    assert lift([[can((-0.05, 0.0, 0.02), (0.05, 0.0, 0.02))]], PANDA, down(0, 0, 0.02, 0.4), 0.07).raised


def test_each_way_to_fail_has_its_reason() -> None:
    things = [[can((-0.05, 0.0, 0.02), (0.05, 0.0, 0.02))]]
    assert lift(things, PANDA, down(0, 0, 0.005), 0.05).reason == "the gripper meets the table"
    assert lift(things, PANDA, down(0, 0.1, 0.02), 0.05).reason == "nothing is between the pads"
    assert lift(things, PANDA, down(0, 0, 0.02), 0.05, physics=Physics(density=20_000)).reason == "the thing is too heavy for the friction"
    pair = [[can((0.0, -0.021, 0.02), (0.05, -0.021, 0.02))], [can((0.0, 0.021, 0.02), (0.05, 0.021, 0.02))]]
    assert lift(pair, Gripper.wsg50(), down(0.02, 0, 0.02), 0.1).reason.startswith("the pads touch two things")
    wall = [*things, [Box(centre=(0.0, 0.045, 0.05), half=(0.1, 0.01, 0.05), yaw=0.0, colour=RED)]]
    assert lift(wall, PANDA, down(0, 0, 0.02), 0.05).reason == "the gripper meets thing 1 before it closes"


def test_the_way_that_the_gripper_comes_must_be_free() -> None:
    roof = [[ball((0.0, 0.0, 0.02), 0.02)], [Box(centre=(0.0, 0.0, 0.2), half=(0.1, 0.1, 0.01), yaw=0.0, colour=RED)]]
    assert lift(roof, PANDA, down(0, 0, 0.02), 0.05).reason.startswith("the gripper meets thing 1")
    assert lift(roof, PANDA, down(0, 0, 0.02), 0.05, physics=Physics(approach=0.01)).raised


def test_a_thing_that_is_held_at_one_end_swings_until_it_hangs() -> None:
    leaning = [[ball((0.0, 0.0, 0.02), 0.02), ball((0.03, 0.0, 0.2), 0.02)]]
    side = torch.tensor([[0, 0, 1, 0.0], [0, 1, 0, 0], [-1, 0, 0, 0.02], [0, 0, 0, 1.0]], dtype=torch.float64)
    slim = Gripper(
        name="slim", max_width=0.08, pad_half=(0.01, 0.009), finger_thickness=0.01, finger_length=0.2, palm_half=(0.01, 0.05, 0.02)
    )
    away = math.hypot(0.015, 0.09)
    # On a ball each pad has a point, on a can a line: the line resists a small torque about the line of contacts.
    assert lift(leaning, slim, side, 0.05).height == pytest.approx(0.30 - 0.09 - away, abs=0.002)
    light, heavy = (
        lift([[can((0.0, 0.0, 0.02), (0.1, 0.0, 0.02))]], PANDA, down(0.01, 0, 0.02), 0.05, physics=Physics(density=density)).height
        for density in (250.0, 4000.0)
    )
    assert light == pytest.approx(0.30)
    assert heavy == pytest.approx(0.30 - 0.04, abs=0.001)


def test_the_balance_of_two_solids() -> None:
    mass, centre = balance([ball((0.0, 0.0, 0.1), 0.1), Box(centre=(1.0, 0.0, 0.1), half=(0.1, 0.1, 0.1), yaw=0.5, colour=RED)], 100.0)
    volumes = (4 / 3 * math.pi * 1e-3, 8e-3)
    assert mass == pytest.approx(100 * sum(volumes))
    assert centre.tolist() == pytest.approx([volumes[1] / sum(volumes), 0.0, 0.1])


def test_a_turned_world_gives_the_same_answer() -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        yaw, offset, turn = rng.uniform(-3, 3), rng.normal(scale=0.01, size=2), rng.uniform(-0.8, 0.8)
        x, y = 0.05 * math.cos(yaw), 0.05 * math.sin(yaw)
        straight = lift([[can((-0.05, 0, 0.02), (0.05, 0, 0.02))]], PANDA, down(offset[0], offset[1], 0.02, turn), 0.07)
        place = (math.cos(yaw) * offset[0] - math.sin(yaw) * offset[1], math.sin(yaw) * offset[0] + math.cos(yaw) * offset[1])
        turned = lift([[can((-x, -y, 0.02), (x, y, 0.02))]], PANDA, down(*place, 0.02, yaw + turn), 0.07)
        assert turned.reason == straight.reason
        assert turned.height == pytest.approx(straight.height, abs=1e-6)


def test_what_stands_behind_a_pad_is_not_touched() -> None:
    """A post 8 cm aside of the jaw, as high as the thing that it holds."""
    can = Capsule(start=(0.0, 0.0, 0.02), end=(0.1, 0.0, 0.02), radius=0.02, colour=(1.0, 0.0, 0.0))
    post = Capsule(start=(0.05, 0.1, 0.02), end=(0.05, 0.1, 0.06), radius=0.02, colour=(0.0, 1.0, 0.0))
    down = torch.tensor([[1.0, 0, 0, 0.05], [0, -1, 0, 0], [0, 0, -1, 0.02], [0, 0, 0, 1]])
    assert lift([[can], [post]], Gripper.wsg50_long(), down, 0.05).raised
