"""What an embedded model says of itself: the bars that it must reach, and the words of its card."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gate:
    """A bar that a model must reach; `at_most` turns it round."""

    metric: str
    bar: float
    at_most: bool = False

    def holds(self, value: float | None) -> bool:
        """Whether a measured value reaches the bar; an unmeasured one doesn't."""
        if value is None:
            return False
        return value <= self.bar if self.at_most else value >= self.bar


@dataclass(frozen=True, kw_only=True)
class Card:
    """The words of a model's README.md; what is measured or counted is added when it is exported."""

    about: str
    """What it is and how it was made, in some sentences."""
    library: str = "calotype"
    """What loads it: `calotype`, or `diffusers` where that loads the folder as it is."""
    data: str = "preset `small`"
    """What of the toy world it was trained on."""
    made_from: str = "pictures that the toy world paints"
    """What its weights come from, for the licence."""
