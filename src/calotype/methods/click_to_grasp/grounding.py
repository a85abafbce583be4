"""Where in a scene the clicked part is: on which object, which of its parts, and by how much that part leads over the next.

    X      surface points above the table
    inst   the cluster of X whose best tenth is most like the click by the ViT's features
    a, b   cosine of the ViT's and of the diffusion model's features with the click's, as z-scores on the object
    c      (1 - mix) a + mix b, meaned over 1 cm
    parts  hills of c, each separated from the others by a valley; the margin is how far the highest is above the second

With negative clicks, b is the click's share among all clicks (softmax of cosines).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from torch import Tensor

from calotype.core.scene_fields import SceneField, surface_normals, surface_points
from calotype.errors import InputError
from calotype.features.correspondence import Peak, contrasted, cosine, descriptor_at, relative_margin, standardized
from calotype.imaging.rgbd import RGBDView

VIT, DIFFUSION = "vit", "diffusion"
_SMOOTHED = 0.01
_FEWEST = 30
"""Points of the smallest object."""
_FEWEST_OF_HILL = 8
_NEIGHBOURS = 8
_PLANE_SLACK = 0.008
_PLANE_DRAWS = 400


@dataclass(frozen=True, eq=False)
class Query:
    """What is looked for: descriptors of a click, and of clicks that are not meant."""

    vit: Float[Tensor, " channels"]
    diffusion: Float[Tensor, " channels"]
    negatives: tuple[Float[Tensor, " channels"], ...]
    """Of the diffusion model."""
    typical: float
    """Median cosine of the reference picture's cells with the click, by the diffusion model: how alike two unlike places are."""


@dataclass(frozen=True, eq=False)
class Plane:
    """A plane n x = d with a unit normal; n x - d is the height above it."""

    normal: Float[Tensor, 3]
    offset: float

    def height(self, points: Float[Tensor, "*rest 3"]) -> Float[Tensor, "*rest"]:
        """In metres."""
        return points @ self.normal.to(points) - self.offset


@dataclass(frozen=True, eq=False)
class Part:
    """A hill of the score on the object."""

    point: Float[Tensor, 3]
    """Mean of its points, weighted by their scores."""
    score: float
    """Its highest score, in standard deviations above the object's mean."""
    members: Int[Tensor, " n"]
    """Numbers of its points."""


@dataclass(frozen=True, eq=False)
class Grounding:
    """The object's surface with its scores, and its parts."""

    points: Float[Tensor, "n 3"]
    normals: Float[Tensor, "n 3"]
    """Outwards, of length 1."""
    scores: Float[Tensor, " n"]
    parts: tuple[Part, ...]
    """The highest first."""
    margin: float
    """0 is a tie of the two highest, 1 no other part."""
    table: Plane | None
    """What the object stands on, None where the views show none."""


def describe(
    maps: Mapping[str, Tensor], size: tuple[int, int], click: tuple[float, float], negatives: Sequence[tuple[float, float]] = ()
) -> Query:
    """Descriptors of clicks in the reference picture.

    Args:
        maps: its features, `vit` and `diffusion`, each [C, h, w].
        size: its height and width in pixels.
        click: (x, y) in pixels from the outer corner of the top left one.
        negatives: places that are not meant.
    """
    wanted = descriptor_at(maps[DIFFUSION], click, size)
    typical = float(cosine(maps[DIFFUSION], wanted).median())
    others = tuple(descriptor_at(maps[DIFFUSION], each, size) for each in negatives)
    return Query(descriptor_at(maps[VIT], click, size), wanted, others, typical)


def similarities(query: Query, features: Mapping[str, Tensor], dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines of places with the click: by the ViT, by the diffusion model, and the latter against negative clicks."""
    plain = cosine(features[DIFFUSION], query.diffusion, dim=dim)
    against = [cosine(features[DIFFUSION], other, dim=dim) for other in query.negatives]
    return cosine(features[VIT], query.vit, dim=dim), plain, contrasted(plain, against) if against else plain


def ground(
    field: SceneField, query: Query, *, mix: float = 0.5, step: float = 0.005, reach: float = 0.015, clearance: float = 0.005,
    valley: float = 0.25, min_similarity: float = 0.2,
) -> Grounding:  # fmt: skip
    """Find the clicked part in a scene.

    Args:
        field: with maps `vit` and `diffusion`.
        query: see `describe`.
        mix: share of the diffusion model's score.
        step: of surface points, in metres.
        reach: nearest distance of two objects, in metres.
        clearance: how far above the table a point of an object is, in metres.
        valley: how far the score falls between two parts, in shares of the highest.
        min_similarity: of the best place; 0 is what unlike places have, 1 what the click itself has.

    Raises:
        InputError: no depth at the object, no object, or one on which nothing is like the click.
    """
    refuse_missing_depth(field, query)
    everything = surface_points(field, step)
    table = support_plane(everything, field.views)
    points = everything if table is None else everything[table.height(everything) > clearance]
    objects = clusters(points, reach)
    if not objects:
        raise InputError("views: no object with depth stands out from its ground; move the cameras nearer, or give views with more depth")
    features = {name: field.features(points, name) for name in (VIT, DIFFUSION)}
    a, plain, b = similarities(query, features, -1)
    chosen = max(objects, key=lambda members: float(a[members].topk(max(1, len(members) // 10)).values.mean()))
    near = (float(plain[chosen].topk(max(1, len(chosen) // 50)).values.mean()) - query.typical) / max(1e-6, 1 - query.typical)
    if near < min_similarity:
        raise InputError(
            f"views: nothing there is like what was clicked (likeness {near:.2f}, at least {min_similarity:g} is asked for): the part is"
            " hidden from all cameras, or isn't there; add a view, click another place, or lower min_similarity"
        )
    own = points[chosen]
    tree = cKDTree(own.numpy())
    scores = smoothed(tree, mix * standardized(b[chosen]) + (1 - mix) * standardized(a[chosen]), _SMOOTHED)
    centres = torch.stack([view.centre for view in field.views]).to(own)
    seen = torch.cdist(centres, own).masked_fill(~field.seen(own), torch.inf)
    normals = surface_normals(own, centres[seen.argmin(0)])
    threshold = otsu(scores)
    found = hills(tree, scores, reach=reach, valley=valley * float(scores.max()))
    parts = []
    for peak, basin in found:
        members = basin[scores[basin] >= min(max(threshold, peak.score / 2), peak.score)]
        weights = (scores[members] - scores[members].min()) + 1e-3
        parts.append(Part((own[members] * weights[:, None]).sum(0) / weights.sum(), peak.score, members))
    margin = relative_margin(scores, [peak for peak, _ in found])
    return Grounding(own, normals, scores, tuple(parts), margin, table)


def refuse_missing_depth(field: SceneField, query: Query) -> None:
    """Refuse views that show what was clicked where they have no depth, as with glass or black things.

    Raises:
        InputError: they do, all of them.
    """
    without = 0
    for number, view in enumerate(field.views):
        a, plain, _ = similarities(query, {name: field.maps[name][number] for name in (VIT, DIFFUSION)}, 0)
        height, width = plain.shape
        best = plain + torch.nn.functional.interpolate(a[None, None], size=plain.shape, mode="bilinear", align_corners=False)[0, 0]
        row, column = divmod(int(best.argmax()), width)
        down, across = (slice(int(place * side / cells), int(np.ceil((place + 1) * side / cells)))
                        for place, side, cells in ((row, view.size[0], height), (column, view.size[1], width)))  # fmt: skip
        without += float(view.valid[down, across].float().mean()) < 0.1
    if without == len(field.views):
        raise InputError(
            "views: there is no depth where they show what was clicked, as happens with glass, black or shiny things; give views with depth"
            " there"
        )


def support_plane(points: Float[Tensor, "n 3"], views: Sequence[RGBDView]) -> Plane | None:
    """The largest plane among points, where it holds at least a fifth of them; its normal points to the cameras. Always the same."""
    if len(points) < _FEWEST:
        return None
    generator = torch.Generator().manual_seed(0)
    some = points[torch.randperm(len(points), generator=generator)[:4000]].double()
    draws = torch.randint(len(some), (_PLANE_DRAWS, 3), generator=generator)
    first, second, third = some[draws].unbind(1)
    crosses = torch.linalg.cross(second - first, third - first)
    normals = torch.nn.functional.normalize(crosses, dim=1)
    on = ((some @ normals.T - (first * normals).sum(1)).abs() < _PLANE_SLACK).sum(0) * (crosses.norm(dim=1) > 1e-9)
    best = int(on.argmax())
    if float(on[best]) < 0.2 * len(some):
        return None
    inliers = some[((some - first[best]) @ normals[best]).abs() < _PLANE_SLACK]
    middle = inliers.mean(0)
    normal = torch.linalg.eigh((inliers - middle).T @ (inliers - middle)).eigenvectors[:, 0]
    towards = torch.stack([view.centre for view in views]).mean(0) - middle
    normal = normal if float(normal @ towards) > 0 else -normal
    return Plane(normal.to(points), float(middle @ normal))


def clusters(points: Float[Tensor, "n 3"], reach: float) -> list[Int[Tensor, " m"]]:
    """Numbers of the points of each object: what hangs together over less than `reach`, without crumbs; the largest first."""
    if len(points) < _FEWEST:
        return []
    pairs = cKDTree(points.numpy()).query_pairs(reach, output_type="ndarray")
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(points), len(points)))
    _, owner = connected_components(graph, directed=False)
    counts = np.bincount(owner)
    large = [label for label in np.argsort(-counts, kind="stable") if counts[label] >= _FEWEST]
    return [torch.from_numpy(np.flatnonzero(owner == label)) for label in large]


def smoothed(tree: cKDTree, values: Float[Tensor, " n"], radius: float) -> Float[Tensor, " n"]:
    """The mean over all points within a radius."""
    pairs = tree.query_pairs(radius, output_type="ndarray")
    first, second = torch.from_numpy(pairs[:, 0]).long(), torch.from_numpy(pairs[:, 1]).long()
    total, count = values.clone(), torch.ones_like(values)
    total.index_add_(0, first, values[second]).index_add_(0, second, values[first])
    ones = torch.ones(len(first)).to(values)
    count.index_add_(0, first, ones).index_add_(0, second, ones)
    return total / count


def otsu(values: Float[Tensor, " n"]) -> float:
    """The threshold that separates values into two classes of least variance (Otsu 1979).

    Example:
        >>> 0.1 < otsu(torch.tensor([0.0, 0.1, 0.05, 1.0, 0.9])) <= 0.9
        True
    """
    ordered = values.double().sort().values
    count = torch.arange(1, len(ordered)).double()
    sums = ordered.cumsum(0)[:-1]
    below, above = sums / count, (ordered.sum() - sums) / (len(ordered) - count)
    cut = int((count * (len(ordered) - count) * (above - below).square()).argmax())
    return float((ordered[cut] + ordered[cut + 1]) / 2)


def hills(tree: cKDTree, scores: Float[Tensor, " n"], *, reach: float, valley: float) -> list[tuple[Peak, Int[Tensor, " m"]]]:
    """Peaks of a score on a surface and the points of each, the highest first: what a valley at least that deep separates.

    Crumbs, of which fewer than eight points are so high, are left out. Points join from the highest score downwards, each the highest hill
    beside it; where two hills meet, the lower one keeps its points only if its peak is `valley` above (0-dimensional persistence).
    """
    values = scores.numpy()
    owner = np.full(len(values), -1)
    merged: dict[int, int] = {}

    def root(hill: int) -> int:
        while hill in merged:
            hill = merged[hill]
        return hill

    neighbours = _nearest(tree, reach)
    for point in np.argsort(-values, kind="stable"):
        around = {root(owner[other]) for other in neighbours[point] if owner[other] >= 0}
        if not around:
            owner[point] = point
            continue
        ranked = sorted(around, key=lambda hill: (-values[hill], hill))
        owner[point] = ranked[0]
        for lower in ranked[1:]:
            if values[lower] - values[point] < valley:
                merged[lower] = ranked[0]
    roots = np.array([root(hill) for hill in owner])
    high = values >= values[roots] - valley
    counts = np.bincount(roots[high], minlength=len(values))
    large = np.flatnonzero(counts >= min(_FEWEST_OF_HILL, counts.max()))
    peaks = sorted(large.tolist(), key=lambda hill: (-values[hill], hill))
    return [(Peak(int(hill), float(values[hill])), torch.from_numpy(np.flatnonzero(roots == hill))) for hill in peaks]


def _nearest(tree: cKDTree, reach: float) -> list[set[int]]:
    """The nearest points of each, up to `reach`, and those whose nearest it is: over a gap only where nothing is nearer."""
    apart, near = tree.query(tree.data, k=_NEIGHBOURS + 1, distance_upper_bound=reach)
    first, second = np.nonzero(np.isfinite(apart[:, 1:]))
    links: list[set[int]] = [set() for _ in range(tree.n)]
    for one, other in zip(first.tolist(), near[first, second + 1].tolist(), strict=True):
        links[one].add(other)
        links[other].add(one)
    return links


def heat_of_view(grounding: Grounding, view: RGBDView, distance: float = 0.008) -> tuple[Float[Tensor, "h w"], Bool[Tensor, "h w"]]:
    """The score of the object's point that each pixel shows, and where it shows one."""
    points = view.points().reshape(-1, 3)
    apart, nearest = cKDTree(grounding.points.numpy()).query(points.numpy(), distance_upper_bound=distance)
    on = torch.from_numpy(np.isfinite(apart)) & view.valid.flatten()
    scores = grounding.scores[torch.from_numpy(np.where(np.isfinite(apart), nearest, 0))]
    return torch.where(on, scores, torch.zeros(())).reshape(view.size), on.reshape(view.size)
