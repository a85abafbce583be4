"""Scene fields: signed distance and features at any point of a scene, fused from views with depth.

Y. Wang et al.: "D3Fields: Dynamic 3D Descriptor Fields", arXiv 2309.16118, section 3.1. For a world point x, view k sees it at pixel p and
camera depth z, where its depth map says D_k(p):

    d_k = D_k(p) - z                                      in front of the surface > 0, behind it < 0; along the optical axis
    v_k = D_k(p) > 0, p inside, d_k > -mu                 the view says something about x
    w_k = exp(min(mu - |d_k|, 0) / mu)                    1 within mu of the surface
    s(x) = sum_k v_k clip(d_k, -mu, mu) / sum_k v_k       truncated, projective
    f(x) = sum_k v_k e_k w_k f_k(p) / sum_k v_k e_k       features of the pictures

The norm of f falls away from the surface, since w_k is in the sum above alone. Depth is read from the nearest pixel, features between the
centres of cells. e_k is small beside a depth edge: a feature cell there holds what lies before the edge and behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from calotype.errors import InputError, ShapeError
from calotype.imaging.rgbd import RGBDView

NOTHING = 1e3
"""Signed distance where no view says anything, in metres."""
EDGE_WEIGHT = 0.05
"""e_k beside a depth edge: such a view counts only where no better one sees the point."""
_EPSILON = 1e-6
_CHUNK = 1 << 18


@dataclass(frozen=True, eq=False)
class SceneField:
    """Views with feature maps, asked at world points.

    Raises:
        InputError: no view, or a truncation that isn't positive.
        ShapeError: another number of maps than of views, or maps of different widths.

    Example:
        >>> camera = torch.tensor([[64.0, 0, 32], [0, 64, 32], [0, 0, 1]], dtype=torch.float64)
        >>> wall = RGBDView(torch.zeros(3, 64, 64), torch.ones(64, 64), camera, torch.eye(4, dtype=torch.float64))
        >>> scene = SceneField((wall,), truncation=0.02)
        >>> scene.signed_distance(torch.tensor([[0.0, 0, 0.99], [0, 0, 1.01], [0, 0, 1.1]])).mul(1000).round().tolist()
        [10.0, -10.0, 1000000.0]
    """

    views: tuple[RGBDView, ...]
    maps: Mapping[str, Sequence[Float[Tensor, "channels rows columns"]]] = field(default_factory=dict)
    """By name, one map a view; a map covers its whole picture."""
    truncation: float = 0.02
    """mu, in metres; 0.02 suits objects of 10 cm."""

    def __post_init__(self) -> None:
        if not self.views or not self.truncation > 0:
            raise InputError(f"{len(self.views)} views and a truncation of {self.truncation} m were given; give a view, and more than 0 m")
        for name, maps in self.maps.items():
            if len(maps) != len(self.views) or len({each.shape[0] for each in maps}) > 1 or any(each.ndim != 3 for each in maps):
                raise ShapeError(f"{name}: {len(maps)} maps for {len(self.views)} views; give one [C, h, w] a view, all of one width")

    def with_maps(self, **maps: Sequence[Tensor]) -> SceneField:
        """The same views with other feature maps."""
        return replace(self, maps=maps)

    def distances(self, points: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, "views n"], Bool[Tensor, "views n"]]:
        """d_k of each view, and where the view has a depth at all; elsewhere d_k is 0."""
        found = [_distance(view, points) for view in self.views]
        return torch.stack([each[0] for each in found]), torch.stack([each[1] for each in found])

    def signed_distance(self, points: Float[Tensor, "n 3"], *, hidden: float = NOTHING) -> Float[Tensor, " n"]:
        """s, in metres, within `truncation` of 0 where a view says something, else `NOTHING`.

        Args:
            points: world points in metres.
            hidden: the value of points that lie behind what every view sees that looks at them, such as the inside of an object.
        """
        mu, parts = self.truncation, []
        for some in points.split(_CHUNK):
            apart, inside = self.distances(some)
            valid = inside & (apart > -mu)
            count = valid.sum(0)
            mean = (apart.clamp(-mu, mu) * valid).sum(0) / count.clamp_min(1)
            silent = torch.where(inside.any(0), hidden, NOTHING).to(mean)
            parts.append(torch.where(count > 0, mean, silent))
        return torch.cat(parts)

    def features(self, points: Float[Tensor, "n 3"], name: str) -> Float[Tensor, "n channels"]:
        """f of the maps of that name; 0 where no view says anything.

        Raises:
            InputError: there are no maps of that name.
        """
        if name not in self.maps:
            raise InputError(f"there are no feature maps {name!r}; this field has {', '.join(self.maps) or 'none'}")
        parts = []
        for some in points.split(_CHUNK):
            total = torch.zeros(len(some), self.maps[name][0].shape[0])
            count = torch.zeros(len(some))
            for view, features in zip(self.views, self.maps[name], strict=True):
                apart, inside = _distance(view, some)
                valid = inside & (apart > -self.truncation)
                weight = (torch.minimum(self.truncation - apart.abs(), torch.zeros(())) / self.truncation).exp()
                pixels, _ = view.project(some)
                counted = valid * _edge_weights(view, some, features, self.truncation)
                total += (counted * weight)[:, None] * sample_map(features, pixels, view.size)
                count += counted
            parts.append(total / (count + _EPSILON)[:, None])
        return torch.cat(parts)

    def seen(self, points: Float[Tensor, "n 3"]) -> Bool[Tensor, "views n"]:
        """Which views see a point: their depth there is the point's, up to `truncation`."""
        apart, inside = self.distances(points)
        return inside & (apart.abs() <= self.truncation)


def sample_map(
    features: Float[Tensor, "channels rows columns"], pixels: Float[Tensor, "n 2"], size: tuple[int, int]
) -> Float[Tensor, "n channels"]:
    """A feature map between the centres of its cells; beyond the outermost centres, the nearest one.

    Args:
        features: a map that covers the whole picture: cell (i, j) is its share of it.
        pixels: (x, y) in the picture, from its top left corner.
        size: the picture's (height, width).

    Example:
        >>> sample_map(torch.tensor([[[0.0, 1.0]]]), torch.tensor([[2.0, 1.0], [4.0, 1.0], [6.0, 1.0]]), (2, 8)).flatten().tolist()
        [0.0, 0.5, 1.0]
    """
    scale = torch.tensor([2.0 / size[1], 2.0 / size[0]]).to(pixels)
    grid = (pixels * scale - 1).clamp(-2, 2)[None, None].to(features)
    sampled: Tensor = functional.grid_sample(features[None], grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled[0, :, 0].T


def surface_points(scene: SceneField, step: float = 0.005) -> Float[Tensor, "n 3"]:
    """Points on the surfaces that the views see: their depths in the world, one mean point a voxel, kept where the views agree.

    Args:
        scene: the field; of its feature maps nothing is used.
        step: side of a voxel, and largest |s|, in metres.

    Returns:
        World points in metres, in the order of their voxels; none where no depth was measured.
    """
    clouds = [view.points()[view.valid & ~depth_edges(view, scene.truncation)] for view in scene.views]
    points = torch.cat(clouds)
    if not len(points):
        return points
    voxels = (points / step).floor().long()
    _, owner, count = torch.unique(voxels, dim=0, return_inverse=True, return_counts=True)
    means = torch.zeros(len(count), 3, dtype=torch.float64).index_add_(0, owner, points.double()) / count[:, None]
    means = means.to(points)
    near: Tensor = means[scene.signed_distance(means).abs() < step]
    return near


def surface_normals(points: Float[Tensor, "n 3"], towards: Float[Tensor, "n 3"], neighbours: int = 16) -> Float[Tensor, "n 3"]:
    """Unit normals: the direction in which the nearest points spread least.

    Args:
        points: on surfaces.
        towards: for each, the place from which it is seen, which its normal faces.
        neighbours: how many points a normal is fitted to; there are at least that many.
    """
    normals = []
    for some in points.split(2048):
        near = torch.cdist(some, points).topk(min(neighbours, len(points)), largest=False).indices
        patch = points[near].double()
        apart = patch - patch.mean(1, keepdim=True)
        normals.append(torch.linalg.eigh(apart.transpose(1, 2) @ apart).eigenvectors[:, :, 0].to(points))
    found = torch.cat(normals)
    facing = ((towards - points) * found).sum(1, keepdim=True)
    return torch.where(facing < 0, -found, found)


def depth_edges(view: RGBDView, step: float) -> Bool[Tensor, "height width"]:
    """Pixels beside one whose depth differs by more than `step` metres, or that has none."""
    padded = functional.pad(view.depth[None, None], [1] * 4, mode="replicate")
    high = functional.max_pool2d(padded, 3, 1)[0, 0]
    low = -functional.max_pool2d(-padded, 3, 1)[0, 0]
    # A slanted plane changes, too: what counts is a jump beyond the change that the pixels around show on their other side.
    slope = _slope(view.depth)
    return (high - low > step + 2 * slope) | (low <= 0)


def _slope(depth: Tensor) -> Tensor:
    """The smaller of the changes to the two sides, the larger of rows and columns."""
    padded = functional.pad(depth[None, None], [1] * 4, mode="replicate")[0, 0]
    centre = padded[1:-1, 1:-1]
    across = torch.minimum((padded[1:-1, 2:] - centre).abs(), (centre - padded[1:-1, :-2]).abs())
    down = torch.minimum((padded[2:, 1:-1] - centre).abs(), (centre - padded[:-2, 1:-1]).abs())
    return torch.maximum(across, down)


def _pixel_values(values: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Values of the pixels in which points lie, and whether they lie in the picture."""
    height, width = values.shape
    column, row = pixels[:, 0].floor(), pixels[:, 1].floor()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
    return values.flatten()[index], inside


def _distance(view: RGBDView, points: Tensor) -> tuple[Tensor, Tensor]:
    pixels, z = view.project(points)
    depth, inside = _pixel_values(view.depth, pixels)
    known = inside & (z > 0) & (depth > 0)
    return torch.where(known, depth - z, torch.zeros_like(z)), known


def _edge_weights(view: RGBDView, points: Tensor, features: Tensor, step: float) -> Tensor:
    """e_k: 1, or `EDGE_WEIGHT` where a depth edge is nearer than half a feature cell."""
    cell = max(view.size[0] / features.shape[1], view.size[1] / features.shape[2])
    reach = round(cell / 2)
    edges = depth_edges(view, step).float()[None, None]
    wide = functional.max_pool2d(edges, 2 * reach + 1, 1, reach)[0, 0] if reach else edges[0, 0]
    pixels, _ = view.project(points)
    return torch.where(_pixel_values(wide, pixels)[0] > 0, EDGE_WEIGHT, 1.0)
