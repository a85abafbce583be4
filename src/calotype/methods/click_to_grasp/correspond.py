"""The place in another picture that corresponds to a click, without depth: Click to Grasp's descriptors in two dimensions.

d      descriptors of the click, and of clicks that are not meant
a, b   cosine of the target's places with the click, by the ViT and by the diffusion model, as z-scores over the picture
c      (1 - mix) a + mix b
place  the softmax-weighted mean of places about the highest c; the margin is how far it is above the next hill of c
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from PIL import Image as Pillow
from PIL import ImageDraw
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional

from calotype.attention.overlays import RAINBOW, overlay
from calotype.backbones.descriptors import comparable_maps
from calotype.core.artifacts import Points
from calotype.core.events import SILENT, Events
from calotype.core.roles import DescriptorModel
from calotype.features.correspondence import cell_positions, relative_margin, soft_argmax, standardized
from calotype.imaging.types import Image
from calotype.methods.click_to_grasp.grounding import describe, hills, similarities
from calotype.methods.click_to_grasp.sheet import CLICKED, FOUND, REFUSED, arranged, cross, panel, panel_scale

Click = tuple[float, float]
NEIGHBOURS = 1.5
"""How far apart cells are that touch each other, in cells."""
ANSWERS = 5
"""Places that are given, the best first."""
OTHER = (250, 170, 0)
"""Colour of the places that aren't the best."""
WINDOW, TEMPERATURE = 3, 0.25
"""Cells about the highest one over which the place is averaged, and the temperature of their z-scores."""


@dataclass(frozen=True, eq=False)
class Correspondence:
    """Where in the target the clicked place is."""

    points: Points
    """The best place and the next ones: x, y in pixels of the target from its outer corner, and the score in standard deviations."""
    heat_map: Image
    """The score over the target."""
    sheet: Image
    """The click beside the answer, and what each kind of features says."""


def correspond(
    model: DescriptorModel, picture: Image, click: Click, target: Image, *, negatives: Sequence[Click] = (), mix: float = 0.5,
    valley: float = 0.25, min_margin: float = 0.1, min_similarity: float = 0.2, events: Events = SILENT,
) -> Correspondence:  # fmt: skip
    """Find a clicked place in another picture.

    Args:
        model: describes pictures.
        picture: that was clicked on.
        click: (x, y) in its pixels, from the outer corner of the top left one.
        target: that is searched.
        negatives: places of `picture` that are not meant, such as the other hand.
        mix: share of the diffusion model's score; 0 is the vision transformer's alone.
        valley: how far the score falls between two places, in shares of the highest; what is joined by a higher pass is one place.
        min_margin: below it a note asks for a negative click.
        min_similarity: below it a note says that the place may not be there.
        events: hears the notes and the metrics `margin` and `likeness`.

    Raises:
        InputError: a click outside of the picture.
    """
    own, found = comparable_maps(model, [picture, target])
    query = describe(own, picture.size, click, negatives)
    vit, plain, diffusion = similarities(query, found, 0)
    grid = max((vit.shape, diffusion.shape), key=lambda shape: shape[0] * shape[1])
    vit, diffusion = (standardized(_enlarged(scores, (grid[0], grid[1]))) for scores in (vit, diffusion))
    scores = mix * diffusion + (1 - mix) * vit
    places = cell_positions((grid[0], grid[1]), target.size)
    reach = NEIGHBOURS * max(side / cells for side, cells in zip(target.size, grid, strict=True))
    found_hills = hills(cKDTree(places.numpy()), scores.flatten(), reach=reach, valley=valley * float(scores.max()))
    best = [peak for peak, _ in found_hills[:ANSWERS]]
    x, y = soft_argmax(scores, window=WINDOW, temperature=TEMPERATURE)
    places[best[0].index] = torch.tensor([x * target.size[1] / grid[1], y * target.size[0] / grid[0]])
    answers = [(float(places[peak.index][0]), float(places[peak.index][1])) for peak in best]
    margin = relative_margin(scores.flatten(), best)
    likeness = (float(plain.max()) - query.typical) / max(1e-6, 1 - query.typical)
    events.metric("margin", margin)
    events.metric("likeness", likeness)
    if likeness < min_similarity:
        events.note(f"target: nothing there is much like what was clicked (likeness {likeness:.2f}, 1 is the click itself)")
    if margin < min_margin:
        first, second = (f"{place_x:.0f},{place_y:.0f}" for place_x, place_y in answers[:2])
        events.note(
            f"target: two places answer almost alike, {first} and {second} (margin {margin:.2f}, {min_margin:g} is asked for): click what"
            " is not meant in the reference picture, too (--negative X,Y)"
        )
    heat = overlay(target.pixels, shares(scores), RAINBOW)
    drawn = [
        ("reference and click", _marked(picture, [*((place, REFUSED) for place in negatives), (click, CLICKED)])),
        (
            f"answer (margin {margin:.2f}) and next best",
            _marked(target, [*((place, OTHER) for place in answers[:0:-1]), (answers[0], CLICKED)]),
        ),
        ("score", _marked(Image(heat), [(answers[0], FOUND)])),
        ("vision transformer alone", panel(overlay(target.pixels, shares(vit), RAINBOW))),
        ("diffusion model alone", panel(overlay(target.pixels, shares(diffusion), RAINBOW))),
    ]
    columns = {"score": torch.tensor([peak.score for peak in best], dtype=torch.float64)}
    return Correspondence(Points(torch.tensor(answers, dtype=torch.float64), columns), Image(heat), arranged(drawn, 3))


def shares(scores: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """Scores for showing: 0 is the mean place and below, 1 the highest."""
    above = scores - scores.mean()
    return (above / above.max().clamp(min=1e-8)).clamp(0.0, 1.0)


def _marked(picture: Image, places: Sequence[tuple[Click, tuple[int, int, int]]]) -> Pillow.Image:
    drawn, scale = panel(picture.pixels), panel_scale(picture.size)
    for (x, y), colour in places:
        cross(ImageDraw.Draw(drawn), (x * scale, y * scale), colour)
    return drawn


def _enlarged(scores: Float[Tensor, "_rows _columns"], grid: tuple[int, int]) -> Float[Tensor, "rows columns"]:
    if tuple(scores.shape) == grid:
        return scores
    return functional.interpolate(scores[None, None], size=grid, mode="bilinear", align_corners=False)[0, 0]
