"""Training samples of style-extracting diffusion: windows of labelled and plain pictures, each with pictures of its style."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Literal, Protocol, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from calotype.data.raw import Intensity
from calotype.data.segmentation_folder import told_size
from calotype.errors import InputError

StyleSampler = Literal["augmented", "nearby", "multi"]
COUNT = 1_000_000
"""Different samples of a data set."""


class Plain(Protocol):
    """Pictures and their patients: a folder or tensors of `calotype.data.segmentation_folder`."""

    @property
    def channels(self) -> int: ...
    @property
    def intensity(self) -> Intensity: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]: ...
    @property
    def patients(self) -> tuple[str, ...]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    def __len__(self) -> int: ...
    def rows(self, indices: Sequence[int]) -> dict[str, Tensor]: ...
    def split(self, share: float, seed: int) -> tuple[Self, Self]: ...


class Labelled(Plain, Protocol):
    """The same with layouts."""

    @property
    def class_values(self) -> tuple[int, ...]: ...
    @property
    def num_classes(self) -> int: ...


class StyledWindows:
    """Windows with style pictures, as a data set; a sample's number says which.

    A patient is drawn first, then one of the patient's pictures, then a place in it. `image` is [B, 3, h, w] in [0, 1], `layout` [B, h, w]
    class numbers, -1 where the picture is a plain one, and `styles` [B, K, 3, h, w] in [0, 1].

    Args:
        labelled: pictures with layouts.
        plain: pictures without; None for none.
        window: height and width.
        sampler: where the style comes from. `augmented`: the window itself, turned, sheared, scaled and mirrored (flowers in the official
            code); `nearby`: a window whose corner is at most a window's side away (its histology default); `multi`: windows anywhere in the
            patient's pictures.
        num_styles: style pictures of a sample; more than one needs `multi`.
        plain_share: of the samples, from plain pictures.
        stream: two numbers that, with a sample's own, its place is drawn from.

    Raises:
        InputError: a picture that is smaller than a window, or numbers that don't fit together.
    """

    def __init__(
        self, labelled: Labelled, plain: Plain | None, window: tuple[int, int], *, sampler: StyleSampler = "multi", num_styles: int = 1,
        plain_share: float = 0.5, stream: tuple[int, int] = (0, 0),
    ) -> None:  # fmt: skip
        if num_styles < 1 or (num_styles > 1 and sampler != "multi"):
            raise InputError(f"num_styles is {num_styles} with the sampler {sampler}; several style pictures come from `multi`")
        self.labelled, self.plain, self.window, self.sampler = labelled, plain, window, sampler
        self.num_styles, self.plain_share, self.stream = num_styles, plain_share, stream
        parts: list[Plain] = [labelled] if plain is None else [labelled, plain]
        for part in parts:
            for sides in part.sizes:
                if len(sides) != 2 or any(side < want for side, want in zip(sides, window, strict=True)):
                    raise InputError(f"data: a picture of {told_size(sides)} has no window of {told_size(window)}; take a smaller window")
        self._patients = {id(part): _by_patient(part) for part in parts}

    def __len__(self) -> int:
        return COUNT

    @property
    def fingerprint(self) -> str:
        """Of both folders and of the rule."""
        parts = [part.fingerprint for part in (self.labelled, self.plain) if part is not None]
        rule = json.dumps([parts, self.window, self.sampler, self.num_styles, self.plain_share])
        return hashlib.sha256(rule.encode()).hexdigest()

    def rows(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The samples of these numbers, stacked."""
        made = [self._sample(index) for index in indices]
        return {name: torch.stack([one[name] for one in made]) for name in made[0]}

    def split(self, share: float, seed: int = 0) -> tuple[StyledWindows, StyledWindows]:
        """Two sets by patient, labelled and plain ones alike."""
        labelled = self.labelled.split(share, seed)
        plain = (None, None) if self.plain is None else self.plain.split(share, seed)
        train, held_out = (
            StyledWindows(
                one,
                other,
                self.window,
                sampler=self.sampler,
                num_styles=self.num_styles,
                plain_share=self.plain_share,
                stream=(place, seed),
            )
            for place, (one, other) in enumerate(zip(labelled, plain, strict=True))
        )
        return train, held_out

    def _sample(self, number: int) -> dict[str, Tensor]:
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([*self.stream, number, 84])))
        is_plain = self.plain is not None and rng.random() < self.plain_share
        part: Plain = self.plain if is_plain and self.plain is not None else self.labelled
        patients = self._patients[id(part)]
        pictures = patients[int(rng.integers(len(patients)))]
        whole = _read(part, pictures[int(rng.integers(len(pictures)))])
        corner = self._corner(rng, whole["image"])
        image = self._cut(whole["image"], corner)
        layout = torch.full(self.window, -1) if is_plain or "mask" not in whole else self._cut(whole["mask"], corner)
        if self.sampler == "augmented":
            styles = [deformed(image, rng)]
        elif self.sampler == "nearby":
            room = np.array(whole["image"].shape[1:]) - np.array(self.window)
            moved = corner + np.rint((2 * rng.random(2) - 1) * np.array(self.window)).astype(int)
            styles = [self._cut(whole["image"], np.clip(moved, 0, room))]
        else:
            styles = []
            for _ in range(self.num_styles):
                other = _read(part, pictures[int(rng.integers(len(pictures)))])["image"]
                styles.append(self._cut(other, self._corner(rng, other)))
        return {"image": image, "layout": layout, "styles": torch.stack(styles)}

    def _corner(self, rng: np.random.Generator, image: Tensor) -> np.ndarray:
        room = np.array(image.shape[1:]) - np.array(self.window)
        corner: np.ndarray = (rng.random(2) * (room + 1)).astype(int)
        return corner

    def _cut(self, values: Tensor, corner: np.ndarray) -> Tensor:
        (top, left), (height, width) = corner, self.window
        return values[..., top : top + height, left : left + width]


def deformed(image: Float[Tensor, "3 height width"], rng: np.random.Generator) -> Float[Tensor, "3 height width"]:
    """A picture whose content is displaced: any turn, 0.8 to 1.2 of the size, moved by a tenth, sheared by 20 degrees, mirrored."""
    turn, shear = rng.uniform(-math.pi, math.pi), math.tan(math.radians(rng.uniform(-20, 20)))
    scale, flip = rng.uniform(0.8, 1.2), float(rng.choice([-1.0, 1.0]))
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    matrix = rotation @ np.array([[flip, shear], [0.0, 1.0]]) / scale
    theta = torch.tensor(np.concatenate([matrix, rng.uniform(-0.2, 0.2, (2, 1))], 1), dtype=torch.float32)
    grid = functional.affine_grid(theta[None], [1, *image.shape], align_corners=False)
    return functional.grid_sample(image[None], grid, mode="bilinear", padding_mode="reflection", align_corners=False)[0]


def _by_patient(part: Plain) -> list[list[int]]:
    found: dict[str, list[int]] = {}
    for number, patient in enumerate(part.patients):
        found.setdefault(patient, []).append(number)
    return list(found.values())


def _read(part: Plain, number: int) -> dict[str, Tensor]:
    """One picture in three channels, and its layout."""
    row = {name: values[0] for name, values in part.rows([number]).items()}
    return {**row, "image": row["image"].expand(3, -1, -1)}
