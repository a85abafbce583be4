"""Every ground truth of a scene: layers, masks, parts, the clean ground, depth, places, affine motion, optical flow, camera, words.

Pixel coordinates: x to the right, y down, pixel (0, 0) covers [0, 1] x [0, 1], so its middle is at (0.5, 0.5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from calotype.errors import InputError
from calotype.world.creatures.drawing import PARTS, Creature
from calotype.world.painting import shapes
from calotype.world.painting.backgrounds import restyle_background
from calotype.world.painting.grounds import paint_grounds
from calotype.world.painting.motion import Array, moments
from calotype.world.painting.painter import blend, corners, coverage, gather, part_colours
from calotype.world.scenes.sampling import Scene


@dataclass(frozen=True, eq=False, kw_only=True)
class GroundTruth:
    """All that is known about a painted scene, for each of F frames and N objects (from the hindmost to the foremost)."""

    scene: Scene
    frames: Float[Tensor, "frames 3 height width"]
    """The painting, in 0..1."""
    background: Float[Tensor, "frames 3 height width"]
    """The clean ground behind everything, in 0..1."""
    layers: Float[Tensor, "frames objects 4 height width"]
    """Each object alone and whole: straight RGB and alpha, in 0..1. The ground under all layers, back to front, is the painting."""
    full_masks: Bool[Tensor, "frames objects height width"]
    """Where an object would cover at least half of the pixel if nothing stood before it."""
    masks: Bool[Tensor, "frames objects height width"]
    """Where it is the foremost thing."""
    full_parts: UInt8[Tensor, "frames objects height width"]
    """Id of the object's part at each pixel of its full mask, 0 elsewhere; `part_names[n][id - 1]` names it."""
    parts: UInt8[Tensor, "frames objects height width"]
    """The same on its visible mask."""
    part_names: tuple[tuple[str, ...], ...]
    depth: Int[Tensor, "frames height width"]
    """Number of the foremost thing at each pixel: 0 the ground, n + 1 object n."""
    positions: Float[Tensor, "frames objects 2"]
    """Centres (x, y) in pixels."""
    radii: Float[Tensor, "frames objects"]
    """In pixels."""
    angles: Float[Tensor, "frames objects"]
    """Clockwise turn in radians."""
    motion: Float[Tensor, "steps objects 2 3"]
    """Affine maps of pixel coordinates (x, y, 1) on an object from each frame to the next, F - 1 of them."""
    camera_motion: Float[Tensor, "steps 2 3"]
    """The same for the ground."""
    camera: Float[Tensor, "frames 3"]
    """Centre (x, y) of the view in world sides, and its magnification."""
    flow: Float[Tensor, "steps 2 height width"]
    """Displacement (right, down) in pixels of what each pixel's middle shows, to the next frame."""
    occluded: Bool[Tensor, "steps height width"]
    """Where what the pixel shows is hidden or outside the picture in the next frame."""

    @property
    def caption(self) -> str:
        """The scene's caption."""
        return self.scene.caption

    @property
    def words(self) -> tuple[tuple[str, str], ...]:
        """For each object its category and colour word."""
        return self.scene.words

    @property
    def visible_share(self) -> Float[Tensor, "frames objects"]:
        """Visible part of each object's area, 0..1 (0 where it isn't in the picture at all)."""
        return self.masks.sum((-1, -2)) / self.full_masks.sum((-1, -2)).clamp(min=1)


def ground_truth(scene: Scene, size: int = 64, num_frames: int | None = None, *, device: str | torch.device = "cpu") -> GroundTruth:
    """Paint one scene with everything that is known about it.

    Args:
        scene: what to paint.
        size: the picture's side in pixels, 16 to 2048.
        num_frames: number of frames; None for the number that the scene's motion was drawn for.
        device: where to paint.

    Raises:
        InputError: a size or number of frames out of range.

    >>> from calotype.world import sample_scene
    >>> truth = ground_truth(sample_scene("small", seed=0, index=0), 32)
    >>> truth.caption, tuple(truth.layers.shape)
    ('a purple star right of a blue star on snow', (1, 2, 4, 32, 32))
    """
    if not 16 <= size <= 2048:
        raise InputError(f"size must be 16 to 2048 pixels, not {size}")
    frames = scene.num_frames if num_frames is None else num_frames
    if frames < 1:
        raise InputError(f"num_frames must be 1 or more, not {frames}")
    place = torch.device(device)
    u = moments(frames)
    with torch.no_grad():
        ground = paint_grounds([(restyle_background(scene.background, scene.style), scene.camera)], u, size, place)
        colour, alpha, part = _layers(scene, u, size, place)
        painting = ground
        for number in range(len(scene.objects)):
            painting = painting * (1.0 - alpha[:, number]) + colour[:, number]
        full_masks = alpha[:, :, 0] >= 0.5
        depth = torch.zeros((frames, size, size), dtype=torch.int64, device=place)
        for number in range(len(scene.objects)):
            depth[full_masks[:, number]] = number + 1
        masks = depth[:, None] == torch.arange(1, len(scene.objects) + 1, device=place)[:, None, None]
        parts = part * full_masks
        placed = np.array([thing.placement(scene.camera, u) for thing in scene.objects]).reshape(len(scene.objects), 4, frames)
        views = np.stack(np.broadcast_arrays(*scene.camera.view(u)), axis=-1)
        motion, camera_motion = _object_maps(placed, size), _camera_maps(views, size)
        flow, occluded = _flow(np.concatenate([camera_motion[:, None], motion], axis=1), depth, size)
    return GroundTruth(
        scene=scene,
        frames=painting,
        background=ground,
        layers=torch.cat([torch.where(alpha > 0.0, colour / alpha.clamp(min=1e-6), 0.0).clamp(0.0, 1.0), alpha], dim=2),
        full_masks=full_masks,
        masks=masks,
        full_parts=parts,
        parts=parts * masks,
        part_names=tuple(PARTS if isinstance(thing, Creature) else shapes.CATEGORIES[thing.category].parts for thing in scene.objects),
        depth=depth,
        positions=_tensor(placed[:, :2].transpose(2, 0, 1) * size),
        radii=_tensor(placed[:, 2].T * size),
        angles=_tensor(placed[:, 3].T),
        motion=_tensor(motion),
        camera_motion=_tensor(camera_motion),
        camera=_tensor(views),
        flow=flow,
        occluded=occluded,
    )


def _layers(scene: Scene, u: Array, size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Premultiplied colours [F, N, 3, S, S], alphas [F, N, 1, S, S] and part ids [F, N, S, S] of all objects."""
    frames, count = len(u), len(scene.objects)
    colour = torch.zeros((frames, count, 3, size, size), device=device)
    alpha = torch.zeros((frames, count, 1, size, size), device=device)
    part = torch.zeros((frames, count, size, size), dtype=torch.uint8, device=device)
    for number, thing in enumerate(scene.objects):
        instances = gather([(0, 0, thing, thing.placement(scene.camera, u))], frames, size)
        crop = 2 * math.ceil(float(instances.radius.max()) * (1.0 + shapes.OUTLINE) + 1.5)
        for frame in range(frames):
            one = instances.rows(np.array([frame]))
            covered = coverage(one, crop, device)
            rgb, left = blend(covered.flatten(2), part_colours(one, device))
            top = torch.where(covered[0] >= 0.5, torch.arange(1, covered.shape[1] + 1, device=device)[:, None, None], 0).amax(0)
            ids = torch.cat([torch.zeros(1), torch.from_numpy(one.colours[0, :, 3]).float()]).to(device=device, dtype=torch.uint8)
            x, y = (int(value) for value in corners(one, crop)[0])
            x0, x1, y0, y1 = max(x, 0), min(x + crop, size), max(y, 0), min(y + crop, size)
            if x0 >= x1 or y0 >= y1:
                continue
            inside = (slice(y0 - y, y1 - y), slice(x0 - x, x1 - x))
            colour[frame, number, :, y0:y1, x0:x1] = rgb.view(3, crop, crop)[:, *inside]
            alpha[frame, number, 0, y0:y1, x0:x1] = 1.0 - left.view(crop, crop)[inside]
            part[frame, number, y0:y1, x0:x1] = ids[top][inside]
    return colour, alpha, part


def _object_maps(placed: Array, size: int) -> Array:
    """Affine maps [F - 1, N, 2, 3] from the placements [N, 4, F] in sides."""
    scale = placed[:, 2, 1:] / placed[:, 2, :-1]
    turn = placed[:, 3, 1:] - placed[:, 3, :-1]
    cos, sin = scale * np.cos(turn), scale * np.sin(turn)
    linear = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)  # [N, F - 1, 2, 2]
    centre = placed[:, :2].transpose(0, 2, 1) * size
    shift = centre[:, 1:] - np.einsum("nfij,nfj->nfi", linear, centre[:, :-1])
    made: Array = np.concatenate([linear, shift[..., None]], axis=-1).transpose(1, 0, 2, 3)
    return made


def _camera_maps(views: Array, size: int) -> Array:
    """Affine maps [F - 1, 2, 3] of the ground from the views [F, 3]."""
    scale = views[1:, 2] / views[:-1, 2]
    middle = size / 2.0
    # A point w of the world is seen at ((w - centre) * zoom + 0.5) * size.
    shift = (views[:-1, :2] - views[1:, :2]) * views[1:, 2, None] * size + middle - scale[:, None] * middle
    made: Array = np.concatenate([scale[:, None, None] * np.eye(2), shift[..., None]], axis=-1)
    return made


def _flow(maps: Array, depth: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Flow and occlusion from the maps [F - 1, 1 + N, 2, 3] of the ground and the objects, and which of them each pixel shows [F, S, S]."""
    middles = np.arange(size) + 0.5
    x, y = np.meshgrid(middles, middles)
    points = _tensor(np.stack([x, y, np.ones_like(x)])).to(depth.device)
    flows, hidden = [], []
    for step, each in enumerate(_tensor(maps).to(depth.device)):
        chosen = each[depth[step]]  # [S, S, 2, 3]
        goal = torch.einsum("yxij,jyx->iyx", chosen, points)
        flows.append(goal - points[:2])
        column, row = goal.floor().long().unbind(0)
        outside = (column < 0) | (column >= size) | (row < 0) | (row >= size)
        there = depth[step + 1][row.clamp(0, size - 1), column.clamp(0, size - 1)]
        hidden.append(outside | (there != depth[step]))
    if not flows:
        return torch.zeros((0, 2, size, size), device=depth.device), torch.zeros((0, size, size), dtype=torch.bool, device=depth.device)
    return torch.stack(flows), torch.stack(hidden)


def _tensor(values: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
