"""Where a parallel jaw takes hold of a part: many poses of the hand, improved together by the gradient of one loss.

Axes of the hand: origin between the pads, y the axis along which they close, z the direction in which it comes.

    L = L_feat + .5 L_surf + 5 L_coll + .5 L_anti
    L_feat    - score of the surfaces between the pads                   (1 at the part's peak, 0 at the object's mean)
    L_surf    mean |s| / mu between the pads                             something must be there
    L_coll    depth of fingers and palm, as the hand comes along z, in a surface or the table / mu
    L_anti    1 - n1 y + 1 + n2 y                                        normals where rays along y leave what is between the pads

s, its gradient and the score are read from a grid of voxels around the part, so that a pose's loss can be differentiated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional

from calotype.core.events import SILENT, Events
from calotype.core.grippers import Gripper
from calotype.core.scene_fields import SceneField
from calotype.methods.click_to_grasp.grounding import Grounding, Plane
from calotype.methods.click_to_grasp.results import HandPose

OPENING = 0.01
"""How much wider than the part the hand opens before it closes, in metres."""
_SHARPNESS = 0.002
"""Over which the inside of a surface turns into its outside on a ray, in metres."""
_RAY = 33
_SPACING = 0.0075
APPROACH = 0.1
"""How far the hand comes straight along z, in metres."""
_DRAWN = 4
"""Poses that are drawn for each that is improved."""
_CLEAR = 0.003
"""Distance that the hand keeps from surfaces, in metres."""

Reachable = Callable[[Float[Tensor, "4 4"]], bool]
"""Whether a robot's arm can bring its hand to a world-from-gripper pose."""


@dataclass(frozen=True, eq=False)
class Volume:
    """Signed distance (softened), its gradient and the part's score in voxels around the part."""

    values: Float[Tensor, "5 z y x"]
    """s in metres; the gradient of s, x, y, z, of length 1 or less; the score."""
    low: Float[Tensor, 3]
    """World place of the first voxel."""
    step: float
    outside: float
    """s beyond the voxels."""

    def at(self, points: Float[Tensor, "*rest 3"]) -> Float[Tensor, "*rest 5"]:
        """The values between voxels; beyond them s is `outside`, and the rest 0."""
        shifted = torch.cat([self.values[:1] - self.outside, self.values[1:]])
        found = self._sampled(shifted, points)
        return torch.cat([found[..., :1] + self.outside, found[..., 1:]], -1)

    def distance(self, points: Float[Tensor, "*rest 3"]) -> Float[Tensor, "*rest"]:
        """s alone."""
        return self._sampled(self.values[:1] - self.outside, points)[..., 0] + self.outside

    def _sampled(self, values: Tensor, points: Tensor) -> Tensor:
        sides = torch.tensor(values.shape[:0:-1]).to(points)
        places = ((points - self.low) / (self.step * (sides - 1)) * 2 - 1).reshape(1, 1, 1, -1, 3)
        found: Tensor = functional.grid_sample(values[None], places, padding_mode="zeros", align_corners=True)
        return found[0, :, 0, 0].T.reshape(*points.shape[:-1], len(values))


def volume_of(field: SceneField, grounding: Grounding, *, reach: float = 0.2, step: float = 0.005) -> Volume:
    """Voxels around the best part.

    What lies behind the surfaces of every view that looks at it, such as the inside of a thing, counts as occupied.
    """
    mu, part = field.truncation, grounding.parts[0]
    low = (part.point - reach).floor_divide(step) * step
    count = 2 * math.ceil(reach / step) + 1
    axis = torch.arange(count) * step
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")[::-1], -1).to(low) + low
    points = grid.reshape(-1, 3)
    distance = field.signed_distance(points, hidden=-mu).clamp(-mu, mu)
    if grounding.table is not None:
        distance = torch.minimum(distance, grounding.table.height(points).clamp(-mu, mu))
    soft = _blurred(distance.reshape(1, 1, count, count, count))
    slopes = [torch.gradient(soft[0, 0], spacing=step, dim=dim)[0] for dim in (2, 1, 0)]
    gradient = functional.normalize(torch.stack(slopes), dim=0, eps=0.2)
    apart, nearest = cKDTree(grounding.points.numpy()).query(points.numpy(), distance_upper_bound=0.015)
    own = torch.from_numpy(apart).isfinite()
    peak = max(part.score, 1e-3)
    score = torch.where(own, grounding.scores[torch.from_numpy(nearest).clamp(max=len(grounding.points) - 1)] / peak, torch.zeros(()))
    values = torch.cat([soft[0], gradient, score.reshape(1, count, count, count).to(soft)])
    return Volume(values, low, step, mu)


def _blurred(values: Tensor) -> Tensor:
    kernel = torch.tensor([0.25, 0.5, 0.25])
    for shape in ((3, 1, 1), (1, 3, 1), (1, 1, 3)):
        pads = [side for size in reversed(shape) for side in [size // 2] * 2]
        values = functional.conv3d(functional.pad(values, pads, mode="replicate"), kernel.reshape(1, 1, *shape).to(values))
    return values


@dataclass(frozen=True, eq=False)
class Contacts:
    """Where a ray along y through the middle of the hand leaves what is between the pads, at +y and -y, and how the surface lies there."""

    places: Float[Tensor, "n 2"]
    """y of both, metres."""
    facing: Float[Tensor, "n 2"]
    """Cosine of the outward normal with the direction away from the middle: 1 is right against the pad."""
    inside: Float[Tensor, " n"]
    """s in the middle of the hand; negative is inside of something."""


def contacts(volume: Volume, poses: Float[Tensor, "n 4 4"], gripper: Gripper) -> Contacts:
    """Soft: each sample of a ray is left with the chance that all before it were inside and it is not."""
    half = gripper.max_width / 2
    steps = torch.linspace(0.0, half, _RAY).to(poses)
    found = []
    for sign in (1.0, -1.0):
        y = poses[:, :3, 1] * sign
        values = volume.at(poses[:, None, :3, 3] + steps[:, None] * y[:, None])
        inside = torch.sigmoid(-values[..., 0] / _SHARPNESS)
        before = torch.cat([torch.ones_like(inside[:, :1]), inside[:, :-1]], 1).cumprod(1)
        leaving = torch.cat([(before * (1 - inside))[:, :-1], before[:, -1:]], 1)
        facing = ((values[..., 1:4] * y[:, None]).sum(-1) * leaving).sum(1)
        found.append(((leaving * steps).sum(1), facing, values[:, 0, 0]))
    return Contacts(
        torch.stack([found[0][0], -found[1][0]], 1), torch.stack([found[0][1], found[1][1]], 1), found[0][2]
    )  # fmt: skip


def loss(volume: Volume, poses: Float[Tensor, "n 4 4"], gripper: Gripper, table: Plane | None) -> tuple[Tensor, Tensor]:
    """L of each pose, and the opening with which it comes: the distance of the contacts and `OPENING`.

    Args:
        volume: see `volume_of`.
        poses: world from gripper.
        gripper: its sizes.
        table: what the hand must stay above.
    """
    mu = volume.outside
    touched = contacts(volume, poses, gripper)
    # The pads close around the middle, so the wider side counts twice.
    width = 2 * touched.places.abs().max(1).values + OPENING
    between = volume.at(_moved(poses, _between(gripper).expand(len(poses), -1, -1)))
    near = torch.exp(-between[..., 0].abs() / (mu / 4))
    features = -(near * between[..., 4]).sum(1) / near.sum(1).clamp_min(0.5)
    surface = between[..., 0].abs().mean(1) / mu
    body = _moved(poses, body_points(gripper, width.detach().clamp(max=gripper.max_width), palm_spacing=0.025))
    depth = (_CLEAR - volume.distance(body)).clamp_min(0)
    under = torch.zeros_like(depth) if table is None else (-table.height(body)).clamp_min(0)
    collision = (depth + under).mean(1) / mu
    against = (1 - touched.facing).sum(1)
    outside = touched.inside.clamp_min(0) / mu + (width - gripper.max_width).clamp_min(0) / mu
    return features + 0.5 * surface + 5 * collision + 0.5 * against + outside, width


def _between(gripper: Gripper) -> Float[Tensor, "m 3"]:
    wide, high = gripper.pad_half
    return torch.cartesian_prod(
        torch.tensor([-wide, 0.0, wide]), torch.linspace(-0.5, 0.5, 9) * gripper.max_width, torch.tensor([-high, 0.0, high])
    )


def body_points(gripper: Gripper, widths: Float[Tensor, " n"], *, palm_spacing: float = _SPACING) -> Float[Tensor, "n m 3"]:
    """Points in the fingers and in all that the palm passes on its way of `APPROACH`, in the hand's axes, at openings in metres.

    What the fingers pass lies within the latter.

    Args:
        gripper: its sizes.
        widths: openings in metres.
        palm_spacing: about the distance of the palm's points; the fingers' is 7.5 mm.
    """
    middles, halves = gripper.boxes(0.0)
    way = torch.tensor([0.0, 0.0, APPROACH / 2])
    middles, halves = torch.stack([*middles[:2], middles[2] - way]), torch.stack([*halves[:2], halves[2] + way])
    points, side = [], []
    for number, (middle, half) in enumerate(zip(middles, halves, strict=True)):
        spacing = palm_spacing if number == 2 else _SPACING
        axes = [torch.linspace(-float(each), float(each), max(2, round(2 * float(each) / spacing) + 1)) for each in half]
        box = torch.cartesian_prod(*axes) + middle
        points.append(box)
        side.append(torch.full((len(box),), (0.5, -0.5, 0.0)[number]))
    shift = torch.zeros(len(widths), sum(map(len, points)), 3).to(widths)
    shift[..., 1] = widths[:, None] * torch.cat(side).to(widths)
    return torch.cat(points).to(widths) + shift


def _moved(poses: Tensor, points: Tensor) -> Tensor:
    return points @ poses[:, :3, :3].transpose(1, 2) + poses[:, None, :3, 3]


def propose(grounding: Grounding, *, points: int, rotations: int, cone: float, inset: float, seed: int) -> Float[Tensor, "n 4 4"]:
    """Poses at points of the best part: the hand comes within `cone` radians of the inward normal, turned about itself at random.

    Args:
        grounding: the object.
        points: how many of the part's points, spread over it.
        rotations: of each.
        cone: greatest angle to the normal, in radians.
        inset: how far below the surface the middle of the hand is, in metres.
        seed: of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    members = grounding.parts[0].members
    chosen = members[torch.randperm(len(members), generator=generator)[:points]].repeat_interleave(rotations)
    inward = -grounding.normals[chosen]
    count = len(chosen)
    angle = cone * torch.rand(count, generator=generator).sqrt()
    aside = torch.randn(count, 3, generator=generator)
    aside = functional.normalize(aside - (aside * inward).sum(1, keepdim=True) * inward, dim=1)
    z = functional.normalize(inward * angle.cos()[:, None] + aside * angle.sin()[:, None], dim=1)
    y = torch.randn(count, 3, generator=generator)
    y = functional.normalize(y - (y * z).sum(1, keepdim=True) * z, dim=1)
    poses = torch.eye(4).repeat(count, 1, 1)
    poses[:, :3, 0], poses[:, :3, 1], poses[:, :3, 2] = torch.linalg.cross(y, z), y, z
    poses[:, :3, 3] = grounding.points[chosen] + inset * inward
    return poses


def optimize(
    volume: Volume, poses: Float[Tensor, "n 4 4"], gripper: Gripper, table: Plane | None, *, steps: int, learning_rate: float, keep: float,
    floor: int, events: Events = SILENT,
) -> Float[Tensor, "m 4 4"]:  # fmt: skip
    """Adam on shift and rotation; from the tenth step on the best `keep` of the poses go on, but never fewer than `floor`."""
    shift, columns = poses[:, :3, 3].clone(), poses[:, :3, :2].clone()
    # The rotation's two columns have no unit; 5 times the rate is about 0.6 degrees a step.
    rates = (learning_rate, 5 * learning_rate)
    moments = [torch.zeros_like(each) for each in (shift, columns, shift, columns)]
    events.stage("improve poses", steps)
    for step in range(1, steps + 1):
        with torch.enable_grad():
            parameters = [shift.requires_grad_(), columns.requires_grad_()]
            losses, _ = loss(volume, _assembled(*parameters), gripper, table)
            gradients = torch.autograd.grad(losses.sum(), parameters)
        for place, gradient in enumerate(gradients):
            moments[place] = 0.9 * moments[place] + 0.1 * gradient
            moments[place + 2] = 0.999 * moments[place + 2] + 0.001 * gradient.square()
        shift, columns = (
            parameter.detach() - rate * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
            for parameter, rate, mean, square in zip(parameters, rates, moments[:2], moments[2:], strict=True)
        )
        left = max(floor, math.ceil(keep * len(shift)))
        if step >= 10 and left < len(shift):
            best = losses.detach().topk(left, largest=False).indices
            shift, columns, *moments = (each[best] for each in (shift, columns, *moments))
        events.step()
        events.check()
    return _assembled(shift, columns)


def _assembled(shift: Tensor, columns: Tensor) -> Tensor:
    """Poses from shifts and two columns, made orthonormal (Zhou et al. 2019)."""
    x = functional.normalize(columns[..., 0], dim=-1)
    y = functional.normalize(columns[..., 1] - (x * columns[..., 1]).sum(-1, keepdim=True) * x, dim=-1)
    top = torch.cat([torch.stack([x, y, torch.linalg.cross(x, y)], -1), shift[..., None]], -1)
    last = torch.tensor([0.0, 0, 0, 1]).to(top).expand(len(top), 1, 4)
    return torch.cat([top, last], 1)


def collides(
    volume: Volume, poses: Float[Tensor, "n 4 4"], widths: Float[Tensor, " n"], gripper: Gripper, table: Plane | None
) -> Bool[Tensor, " n"]:
    """Whether the hand, opened so far, reaches into a surface at more than two of its points on its way, or below the table."""
    body = _moved(poses, body_points(gripper, widths))
    deep = (volume.distance(body) < 0).sum(1) > 2
    under = torch.zeros_like(deep) if table is None else (table.height(body) < 0).any(1)
    return deep | under


def best_poses(
    volume: Volume, poses: Float[Tensor, "n 4 4"], gripper: Gripper, table: Plane | None, *, count: int, reachable: Reachable | None = None
) -> list[HandPose]:
    """The poses of least loss that collide with nothing, that an arm can reach, and that differ by 1 cm or 20 degrees; best first."""
    losses, widths = loss(volume, poses, gripper, table)
    free = ~collides(volume, poses, widths.clamp(max=gripper.max_width), gripper, table) & (widths <= gripper.max_width)
    chosen: list[HandPose] = []
    for number in losses.argsort().tolist():
        if len(chosen) == count:
            break
        pose = poses[number]
        if not bool(free[number]) or any(_alike(pose, other.pose.to(pose)) for other in chosen):
            continue
        if reachable is None or reachable(_exact(pose)):
            chosen.append(HandPose(_exact(pose), float(widths[number]), float(losses[number])))
    return chosen


def _exact(pose: Tensor) -> Tensor:
    """In float64, its rotation orthonormal to the last digits."""
    exact = pose.detach().double()
    left, _, right = torch.linalg.svd(exact[:3, :3])
    exact[:3, :3] = left @ right
    return exact


def _alike(first: Tensor, second: Tensor) -> bool:
    near = float((first[:3, 3] - second[:3, 3]).norm()) < 0.01
    turned = first[:3, :3].T @ second[:3, :3]
    # A hand that is turned by half a turn about z takes hold in the same way.
    cosines = [(float(turned.trace()) - 1) / 2, (float(-turned[0, 0] - turned[1, 1] + turned[2, 2]) - 1) / 2]
    return near and max(cosines) > math.cos(math.radians(20))


def plan(
    field: SceneField, grounding: Grounding, gripper: Gripper, *, points: int, rotations: int, cone: float, steps: int,
    learning_rate: float, keep: float, floor: int, count: int, seed: int = 0, reachable: Reachable | None = None, events: Events = SILENT,
) -> Sequence[HandPose]:  # fmt: skip
    """Poses of the hand at the best part, best first; none where every one collides or is out of reach."""
    volume = volume_of(field, grounding)
    drawn = propose(grounding, points=points, rotations=_DRAWN * rotations, cone=cone, inset=0.01, seed=seed)
    losses, _ = loss(volume, drawn, gripper, grounding.table)
    poses = drawn[losses.topk(-(-len(drawn) // _DRAWN), largest=False).indices]
    improved = optimize(
        volume, poses, gripper, grounding.table, steps=steps, learning_rate=learning_rate, keep=keep, floor=floor, events=events
    )
    return best_poses(volume, improved, gripper, grounding.table, count=count, reachable=reachable)
