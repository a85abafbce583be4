"""A method without presets and without fields, as a package of somebody else would add it, with its own evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from calotype import Image, ImageLike, MaskLike
from calotype.core.events import SILENT, Events
from calotype.core.method import Method
from calotype.core.noise import noise
from calotype.data import as_image, as_mask
from calotype.errors import InputError
from calotype.evaluation import Claim, Evaluation, Report, Row
from calotype.metrics import Interval


@dataclass(frozen=True, kw_only=True)
class ToyNegative(Method):
    """The negative of a picture, where a mask allows it."""

    slug: ClassVar[str] = "toy-negative"
    role: ClassVar[str] = ""
    presets: ClassVar[tuple[str, ...]] = ()

    def __call__(self, model: None, image: ImageLike, mask: MaskLike | None = None, *, seed: int = 0, events: Events = SILENT) -> Image:
        """Invert.

        Args:
            image: the picture.
            mask: where; everywhere by default.
        """
        pixels = as_image(image, name="image", events=events).pixels
        inverted = 1 - pixels
        return Image(inverted if mask is None else inverted.where(as_mask(mask, name="mask").values, pixels))


def evaluate(*, seed: int, count: int | None, quick: bool, device: str, events: Events) -> Report:
    """Twice the negative is the picture."""
    number = count or (2 if quick else 4)
    events.stage("toy-negative", number)
    errors = []
    for scene in range(number):
        picture = Image(noise((3, 16, 16), seed, scene).sigmoid())
        twice = ToyNegative()(None, ToyNegative()(None, picture))
        errors.append(float((twice.pixels - picture.pixels).abs().max()))
        events.step()
    found = Interval(max(errors), min(errors), max(errors))
    rows = [Row.of("method", "method", {"error": errors})]
    return Report("toy-negative", seed, number, device, 0.1, rows, [Claim.at_most("twice the negative is the picture", found, 1e-6)])


@dataclass(frozen=True, kw_only=True)
class ManyTimes(Evaluation):
    """Is the negative of the negative the picture, however often it is taken?"""

    slug: ClassVar[str] = "toy-smooth"
    default_count: ClassVar[int] = 4
    quick_count: ClassVar[int] = 2

    times: int = 2
    """How often the negative is taken."""

    def check(self, *, count: int | None, record: bool) -> None:
        """Refuse an odd number."""
        if self.times % 2:
            raise InputError(f"times is {self.times}; it must be even")

    def __call__(
        self, *, seed: int, count: int | None = None, quick: bool = False, device: str = "auto", events: Events = SILENT
    ) -> Report:
        """Count."""
        number = self.scenes(count, quick)
        return Report(self.slug, seed, number, device, 0.1, [Row.of("method", "method", {"times": [float(self.times)] * number})])


def nothing(**_: object) -> None:
    """An evaluation that forgot its report."""


METHOD = ToyNegative
