"""A method of a few lines that takes volumes and makes volumes, for tests of run folders and of the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch

from calotype.core.events import SILENT, Events
from calotype.core.method import Method
from calotype.core.noise import noise
from calotype.core.paths import fuse, sliding_windows
from calotype.data import as_volume, volume_mask
from calotype.data.volumes import VolumeLike
from calotype.imaging.types import Volume


@dataclass(frozen=True, kw_only=True)
class ToySmooth(Method):
    """Draws a field towards zero, window by window, with noise."""

    slug: ClassVar[str] = "toy-smooth"
    role: ClassVar[str] = ""
    presets: ClassVar[tuple[str, ...]] = ("paper",)

    gain: float = 0.5
    """How much of the field is left."""

    @classmethod
    def paper(cls) -> Self:
        """The defaults."""
        return cls()

    def __call__(
        self, model: None, field: VolumeLike, mask: Volume | None = None, *, seed: int = 0, events: Events = SILENT
    ) -> dict[str, Volume]:
        """Smooth.

        Args:
            field: the field.
            mask: the voxels that count; without it, all.
        """
        given = as_volume(field, name="field", events=events)
        inside = torch.ones(given.size) if mask is None else volume_mask(mask, given, events=events).float()
        x = (given.values + 0.01 * noise(tuple(given.size), seed)) * inside
        windows = sliding_windows(given.size, (4, 4, 4), 0.5)
        smooth = fuse(lambda part, sigma: part * self.gain, windows, max_rows=4)(x[None, None], 1.0)[0, 0]
        return {"chi": given.with_values(smooth, "ppm"), "deviation": given.with_values(smooth.abs(), "ppm")}
