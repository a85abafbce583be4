"""The same grasps in pybullet, a simulator of rigid bodies (extra `sim`): what the quasi-static test is held against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from calotype.core.grippers import Gripper
from calotype.errors import MissingError
from calotype.world.critters.grasping import GRAVITY, USUAL, Physics, Things, balance
from calotype.world.critters.primitives import Capsule, Primitive

STEP = 1 / 480
"""Seconds of one step."""
MOVE, CLOSE, LIFT, HOLD = 240, 360, 1440, 120
"""Steps of the approach, of closing, of raising and of holding."""
TOUCH = 5.0
"""Newtons at which the gripper stops because it meets something while it comes."""
CLOSING = 0.2
"""Metres a second of each pad."""


def simulate_lift(
    things: Things, gripper: Gripper, pose: Float[Tensor, "4 4"], width: float, *, physics: Physics = USUAL
) -> tuple[float, int | None]:
    """Try a grasp; see `calotype.world.critters.grasping.lift`, which takes the same.

    Things stand still until the jaw has closed.

    Returns:
        Metres by which the centre of mass of the thing that was raised most was raised, and which one that is.

    Raises:
        MissingError: pybullet isn't installed.
    """
    try:
        import pybullet
        from pybullet_utils.bullet_client import BulletClient
    except ImportError:
        raise MissingError('the simulation needs pybullet, for CPython 3.11 on Linux: pip install "calotype[sim]"') from None
    world = BulletClient(connection_mode=pybullet.DIRECT)
    try:
        return _run(world, things, gripper, pose.double().numpy(), min(width, gripper.max_width), physics)
    finally:
        world.disconnect()


def _run(
    world: Any, things: Things, gripper: Gripper, pose: np.ndarray[Any, np.dtype[np.float64]], width: float, physics: Physics
) -> tuple[float, int | None]:
    world.setTimeStep(STEP)
    world.setPhysicsEngineParameter(numSolverIterations=100)
    table = world.createMultiBody(0, world.createCollisionShape(world.GEOM_PLANE))
    world.changeDynamics(table, -1, lateralFriction=1.0)
    bodies, holds = [], []
    for solids in things:
        mass, centre = balance(solids, physics.density)
        body = world.createMultiBody(mass, _shape(world, solids), basePosition=[0, 0, 0], baseInertialFramePosition=centre.tolist())
        world.changeDynamics(body, -1, lateralFriction=physics.friction, rollingFriction=0.0, spinningFriction=0.0)
        place = world.getBasePositionAndOrientation(body)[0]
        holds.append(world.createConstraint(body, -1, -1, -1, world.JOINT_FIXED, [0, 0, 0], [0, 0, 0], place))
        bodies.append(body)
    turn, target = Rotation.from_matrix(pose[:3, :3]).as_quat(), pose[:3, 3]
    start = target - physics.approach * pose[:3, 2]
    hand, hold = _hand(world, gripper, width, start, turn)
    fingers = {"jointIndices": [0, 1], "controlMode": world.VELOCITY_CONTROL}

    def go(steps: int, first: Any, last: Any, speed: float, force: float) -> float:
        """Move the hand; the most newtons of a contact on the way."""
        most = 0.0
        for step in range(steps):
            share = (step + 1) / steps
            world.changeConstraint(hold, list((1 - share) * first + share * last), turn.tolist(), maxForce=2000)
            world.setJointMotorControlArray(hand, targetVelocities=[-speed, -speed], forces=[force, force], **fingers)
            world.stepSimulation()
            most = max([most, *(point[9] for point in world.getContactPoints(hand))])
        return most

    if go(MOVE, start, target, 0.0, 1000.0) > TOUCH:
        return 0.0, None
    go(CLOSE, target, target, CLOSING, physics.force)
    before = [world.getBasePositionAndOrientation(body)[0][2] for body in bodies]
    for constraint in holds:
        world.removeConstraint(constraint)
    world.setGravity(0, 0, -GRAVITY)
    top = target + np.array([0.0, 0.0, physics.lift])
    go(LIFT, target, top, CLOSING, physics.force)
    go(HOLD, top, top, CLOSING, physics.force)
    heights = [world.getBasePositionAndOrientation(body)[0][2] - low for body, low in zip(bodies, before, strict=True)]
    best = int(np.argmax(heights))
    return float(heights[best]), best


def _shape(world: Any, solids: Sequence[Primitive]) -> int:
    """One rigid shape of all solids, in the world's axes."""
    kinds, radii, lengths, halves, places, turns = [], [], [], [], [], []
    for solid in solids:
        if isinstance(solid, Capsule):
            axis = np.subtract(solid.end, solid.start)
            length = float(np.linalg.norm(axis))
            turn = Rotation.align_vectors([axis / length], [[0.0, 0.0, 1.0]])[0] if length > 0 else Rotation.identity()
            kinds.append(world.GEOM_CAPSULE if length > 0 else world.GEOM_SPHERE)
            places.append(np.add(solid.start, solid.end) / 2)
            radii.append(solid.radius)
            lengths.append(length)
            halves.append([0.0, 0.0, 0.0])
        else:
            turn = Rotation.from_euler("z", solid.yaw)
            kinds.append(world.GEOM_BOX)
            places.append(np.array(solid.centre))
            radii.append(0.0)
            lengths.append(0.0)
            halves.append(list(solid.half))
        turns.append(turn.as_quat().tolist())
    return int(
        world.createCollisionShapeArray(
            shapeTypes=kinds, radii=radii, lengths=lengths, halfExtents=halves,
            collisionFramePositions=[place.tolist() for place in places], collisionFrameOrientations=turns,
        )
    )  # fmt: skip


def _hand(world: Any, gripper: Gripper, width: float, place: Any, turn: Any) -> tuple[int, int]:
    """The gripper as a palm with two sliding fingers, and the constraint that moves it; its frame is the gripper's own."""
    centres, halves = (one.tolist() for one in gripper.boxes(width))
    boxes = [
        world.createCollisionShape(world.GEOM_BOX, halfExtents=half, collisionFramePosition=centre)
        for half, centre in zip(halves, centres, strict=True)
    ]
    here, straight = [0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]
    hand = world.createMultiBody(
        1.0, boxes[2], basePosition=place.tolist(), baseOrientation=turn.tolist(), linkMasses=[0.1, 0.1],
        linkCollisionShapeIndices=boxes[:2], linkVisualShapeIndices=[-1, -1], linkPositions=[here, here],
        linkOrientations=[straight, straight], linkInertialFramePositions=[here, here], linkInertialFrameOrientations=[straight, straight],
        linkParentIndices=[0, 0], linkJointTypes=[world.JOINT_PRISMATIC] * 2, linkJointAxis=[[0, 1, 0], [0, -1, 0]],
    )  # fmt: skip
    for link in (0, 1):
        world.changeDynamics(hand, link, lateralFriction=1.0, linearDamping=0.0, angularDamping=0.0)
        world.changeDynamics(hand, link, jointLowerLimit=-width / 2, jointUpperLimit=0.0)
    hold = world.createConstraint(hand, -1, -1, -1, world.JOINT_FIXED, here, here, place.tolist(), straight, turn.tolist())
    return hand, hold
