"""Pictures of one to three critters: shapes of the toy world, small, each a category and a colour that belong together."""

from __future__ import annotations

from calotype.errors import InputError
from calotype.world.painting.backgrounds import make_background
from calotype.world.painting.motion import Camera
from calotype.world.painting.rng import Rng
from calotype.world.scenes.objects import SceneObject
from calotype.world.scenes.placing import place
from calotype.world.scenes.sampling import PRESETS, SPLITS, Scene

STREAM = 93
IDENTITIES: tuple[tuple[str, str], ...] = (
    ("ball", "red"), ("ball", "blue"), ("star", "yellow"), ("star", "purple"),
    ("house", "red"), ("house", "blue"), ("mushroom", "orange"), ("mushroom", "purple"),
)  # fmt: skip
"""Category and colour of each critter."""
SHARES = (0.15, 0.45, 0.40)
"""Of pictures with one, two and three critters."""
RADII = (8.0 / 64.0, 10.0 / 64.0)


def sample_critters(*, split: str, seed: int, index: int) -> Scene:
    """The picture of that number, as a scene of the toy world: `paint` paints it, and `ground_truth` knows all of it.

    No two critters of a picture are the same, and they hardly overlap.

    Raises:
        InputError: an unknown split, a negative number.

    >>> scene = sample_critters(split="tune", seed=1, index=0)
    >>> all(thing.words in IDENTITIES for thing in scene.objects)
    True
    """
    if split not in SPLITS:
        raise InputError(f"there is no split {split!r}; choose one of: {', '.join(SPLITS)}")
    if seed < 0 or index < 0:
        raise InputError(f"seed {seed} and number {index} must be 0 or more")
    rng = Rng(SPLITS[split], seed, index, STREAM)
    background = make_background(rng.choice(PRESETS["small"].backgrounds), rng)
    share = rng.next()
    count = 1 + sum(share >= sum(SHARES[: number + 1]) for number in range(len(SHARES) - 1))
    left = list(IDENTITIES)
    critters: list[SceneObject] = []
    for _ in range(count):
        category, colour = left.pop(int(rng.next() * len(left)))
        thing = SceneObject(category=category, colour=colour, x=0.5, y=0.5, radius=rng.between(*RADII))
        critters.append(place(rng, thing, "still", Camera(), critters, spacing=1.0, turn=PRESETS["small"].turn))
    critters.sort(key=lambda thing: thing.y)
    return Scene(
        objects=tuple(critters), background=background, mentions=tuple(range(count)), preset="critters", split=split, seed=seed, index=index
    )
