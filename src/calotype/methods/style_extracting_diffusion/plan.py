"""Which layout and which style pictures each picture of a made data set comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from calotype.data.segmentation_folder import SegmentationFolder, UnlabelledFolder

Corner = tuple[float, float]
"""Where a window lies, as shares of the room that there is for it."""


@dataclass(frozen=True)
class Entry:
    """What one picture is made of."""

    layout: int
    corner: Corner
    patient: str
    styles: tuple[tuple[int, Corner], ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """Entries drawn from a seed, each by its own number: a longer plan begins like a shorter one."""

    drawn: SegmentationFolder
    plain: UnlabelledFolder
    size: tuple[int, int]
    entries: tuple[Entry, ...]

    @classmethod
    def draw(
        cls, drawn: SegmentationFolder, plain: UnlabelledFolder, *, count: int, num_styles: int, size: tuple[int, int], seed: int
    ) -> Self:
        """Layouts take turns, in an order of the seed's; so do the styles' patients."""
        patients = sorted(set(plain.patients))
        orders = [
            np.random.default_rng(np.random.SeedSequence([seed, 85, part])).permutation(n)
            for part, n in enumerate((len(drawn), len(patients)))
        ]
        entries = []
        for number in range(count):
            rng = np.random.default_rng(np.random.SeedSequence([seed, 86, number]))
            patient = patients[int(orders[1][number % len(patients)])]
            own = [place for place, name in enumerate(plain.patients) if name == patient]

            def corner(rng: np.random.Generator = rng) -> Corner:
                return float(rng.random()), float(rng.random())

            styles = tuple((own[int(rng.integers(len(own)))], corner()) for _ in range(num_styles))
            entries.append(Entry(int(orders[0][number % len(drawn)]), corner(), patient, styles))
        return cls(drawn, plain, size, tuple(entries))

    def __len__(self) -> int:
        return len(self.entries)

    def layouts(self, numbers: Sequence[int]) -> Int[Tensor, "batch height width"]:
        """Class numbers."""
        entries = [self.entries[number] for number in numbers]
        return torch.stack([self._cut(self.drawn.rows([entry.layout])["mask"][0], entry.corner) for entry in entries])

    def styles(self, numbers: Sequence[int]) -> Float[Tensor, "batch count 3 height width"]:
        """Style pictures in [0, 1]."""
        made = []
        for entry in (self.entries[number] for number in numbers):
            pictures = [self._cut(self.plain.rows([place])["image"][0], corner).expand(3, -1, -1) for place, corner in entry.styles]
            made.append(torch.stack(pictures))
        return torch.stack(made)

    def told(self, number: int) -> dict[str, str | float]:
        """What the table says of a row."""
        entry = self.entries[number]
        return {
            "patient": entry.patient,
            "layout": self.drawn.content[entry.layout].files["mask"].path,
            "layout_patient": self.drawn.content[entry.layout].group,
            "style": " ".join(self.plain.content[place].files["image"].path for place, _ in entry.styles),
        }

    def _cut(self, values: Tensor, corner: Corner) -> Tensor:
        (height, width), (rows, columns) = self.size, values.shape[-2:]
        top, left = int(corner[0] * (rows - height + 1)), int(corner[1] * (columns - width + 1))
        return values[..., top : top + height, left : left + width]
