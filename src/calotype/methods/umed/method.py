"""UMed: a segmentation data set that can be looked at, and that a segmenter trained on it without permission learns little from.

X. Lin, Y. Yu, S. Xia, J. Jiang, H. Wang, Z. Yu, Y. Liu, Y. Fu, S. Wang, W. Tang, A. Kot: "Safeguarding Medical Image Segmentation Datasets
against Unauthorized Training via Contour- and Texture-Aware Perturbations", arXiv 2403.14250.

The idea: a network takes the easiest way to a low loss. Two generators add noise of a few grey levels inside the annotated region and on
its contour alone, and are fitted to make the task *easier* for a surrogate segmenter that is trained beside them. What a segmenter then
learns from the protected pictures is the noise, which clean pictures don't have.

    C, I  <- contour, interior of each class            `regions`
    T     <- local texture of x                         `lbp_count`, ...
    d     =  eps tanh(Gc(x)) C + eps T tanh(Gt(x)) I    `generators.Perturbation`
    every k-th step:  F     <- step down L(F(clip(x + d)), y)     `fitting.BiLevel`
    else:             Gc,Gt <- step down L(F(clip(x + d)), y)
    several times, and the fit that teaches a victim least goes on
    x_p   =  round(clip(x + d))                         `protected`, in the file's own levels

Data protection only: it makes no diagnosis and says nothing of a picture's content.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from calotype.backbones.segmenter_network import make_network, network_config
from calotype.core import fields
from calotype.core.artifacts import DatasetFolder, HtmlReport
from calotype.core.events import SILENT, Events
from calotype.core.method import Method
from calotype.data.segmentation_folder import SegmentationFolder, SegmentationTensors
from calotype.data.windows import Pictures
from calotype.errors import DataError, InputError
from calotype.methods.umed.fitting import BiLevel, Carriers, Fit, fit, perturb
from calotype.methods.umed.generators import Parts, Perturbation
from calotype.methods.umed.protected import Change, changes, restore, write_protected
from calotype.methods.umed.regions import Classes, Picture, Side, TextureName, regions, sensor_noise
from calotype.methods.umed.report import Tally, report

STRIDE = 8
"""Sides of windows are multiples of it: patterns of the perturbators hang on a grid that windows share."""
NOISE_SAMPLE = 64
"""Pictures that the sensor noise is read from."""
NOISE_LIMIT = 2.0
"""Sensor noise, in budgets, from which nothing protects on the split `tune`: victims' clean Dice 0.85 of 0.86."""
NOISE_WEAK = 1.0
"""The same from which little protects: 0.52 of 0.88."""


@dataclass(frozen=True, eq=False)
class Protection:
    """What a run gives: the data set to publish, the key to keep, and the report. With a key: the originals alone."""

    protected: DatasetFolder | None = None
    """Images, masks and table, as `SegmentationFolder` opens them. The only part to publish."""
    key: DatasetFolder | None = None
    """Gives the originals back bit for bit: `--data protected --key key`."""
    report: HtmlReport | None = None
    originals: DatasetFolder | None = None


@dataclass(frozen=True, kw_only=True)
class UMed(Method):
    """Protect a data set of pictures and masks against training without permission (Lin et al. 2024).

    Example:
        >>> UMed().carriers, UMed.paper().carriers
        ('shuffled', 'own')
    """

    slug: ClassVar[str] = "umed"
    role: ClassVar[str] = ""
    presets: ClassVar[tuple[str, ...]] = ("smooth", "paper")

    epsilon: float = 4.0
    """Largest change of a pixel in grey levels of 255; of 16 bits, in 255ths of the window of intensities."""
    band: int = 3
    """Pixels that a contour is wide, on one side of a class's border."""
    side: Side = "inner"
    """Where contours lie: inside their class (`inner`), so that noise tells the mask exactly, or on either side of the border (`both`)."""
    texture: TextureName = "none"
    """What scales the interior's budget: `lbp` (share of darker neighbours), `lbp-uniformity` (changes around the ring), `deviation` (local
    standard deviation), or `none`."""
    parts: Parts = "both"
    """Where noise is added: `contour`, `interior` or `both`."""
    fit_steps: int = 400
    """Of the fit, of perturbators and surrogate together."""
    tries: int = 6
    """Fits that are begun; the one goes on that leaves a short victim the least after `try_steps` (`calotype.methods.umed.fitting`)."""
    try_steps: int = 60
    """Steps of each try."""
    batch_size: int = 16
    """Windows of a step."""
    learning_rate: float = 1e-3
    """Of both sides."""
    surrogate_every: int = 2
    """The surrogate moves in every so many steps, the perturbators in the others."""
    carriers: Carriers = "shuffled"
    """What the surrogate sees the noise of picture i on: another picture (`shuffled`), so that nothing but the noise tells the mask, or
    picture i (`own`)."""
    sees_masks: bool = True
    """Whether the perturbators see contours, interiors and classes beside the picture."""
    high_pass: bool = True
    """Whether noise is reduced to its diagonal detail before it is limited: where smooth pictures have least, and where it can't merely
    strengthen their contrast."""
    widths: tuple[int, ...] = (16, 32, 64)
    """Channels of the perturbators' levels."""
    surrogate_widths: tuple[int, ...] = (8, 16, 32)
    """Channels of the surrogate's levels; a U-Net."""
    window: int = 64
    """Longest side of what a step sees of a picture, in pixels."""

    def __post_init__(self) -> None:
        fields.between(self, 0.5, 64, "epsilon")
        fields.between(self, 1, 16, "band")
        fields.at_least(self, 1, "fit_steps", "tries", "try_steps")
        fields.at_least(self, 2, "batch_size", "surrogate_every")
        fields.at_least(self, 16, "window")
        fields.above(self, 0, "learning_rate")
        fields.one_of(self, texture=get_args(TextureName), carriers=get_args(Carriers), parts=get_args(Parts), side=get_args(Side))
        if len(self.widths) < 2 or not all(width >= 4 and width % 4 == 0 for width in self.widths) or len(self.widths) > 4:
            raise InputError(f"widths are {self.widths}; give two to four multiples of 4, such as 16 32 64")

    @classmethod
    def smooth(cls) -> Self:
        """What protects smooth pictures best, chosen on the tune split."""
        return cls()

    @classmethod
    def paper(cls) -> Self:
        """The numbers that a re-implementation calls the paper's, for 100 epochs of 200 pictures."""
        return cls(
            texture="lbp",
            fit_steps=2500,
            tries=1,
            learning_rate=1e-4,
            surrogate_every=5,
            carriers="own",
            side="both",
            sees_masks=False,
            high_pass=False,
            widths=(16, 32, 64, 128),
            batch_size=8,
        )

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Look through the whole folder before anything is made."""
        if arguments.get("key") is None:
            self._open(arguments["data"], arguments.get("classes"), arguments.get("intensity"), SILENT)

    def __call__(
        self,
        model: None,
        data: DatasetFolder,
        *,
        key: DatasetFolder | None = None,
        classes: tuple[int, ...] | None = None,
        intensity: tuple[float, float] | None = None,
        seed: int = 0,
        events: Events = SILENT,
    ) -> Protection:
        """Protect a folder; or give its originals back.

        Args:
            model: none.
            data: a folder with `images/` and `masks/`; see `calotype.data.segmentation_folder`. With `key`, one that was protected.
            key: the key of a protected folder: the result is the originals.
            classes: the masks' values in the order of the classes, the background first; by default all that occur, ascending.
            intensity: of 16 bits, the numbers of a file that are 0 and 1; by default the files' range without the outermost thousandths.
            seed: of the networks' weights and of the windows.
            events: hears steps, notes and metrics, and keeps the state of an interrupted fit.

        Returns:
            The data set to publish, its key and a report; with `key` the originals alone.

        Raises:
            DataError: problems of the folder, a line for each.
            InputError: volumes or files of other depths; a key that doesn't belong to the folder.
        """
        if key is not None:
            return Protection(originals=restore(data.path, key.path, events))
        folder = self._open(data, classes, intensity, events)
        notes = self._notes(folder, events)
        window = self.window_of(folder.sizes)
        drawn = self.fit(folder, channels=folder.channels, num_classes=folder.num_classes, window=window, seed=seed, events=events)
        events.stage("protect", len(folder))
        protected, secret = write_protected(folder, changes(folder, lambda image, mask: perturb(drawn, image, mask, window), events))
        return Protection(protected, secret, self._report(folder, protected, notes, events))

    def perturbation(
        self, images: Picture, masks: Classes, *, seed: int = 0, device: str = "auto", events: Events = SILENT
    ) -> Float[Tensor, "batch channels height width"]:
        """d of pictures in [0, 1] that are in memory, in their unit: the method without files, as its baselines are called."""
        data = SegmentationTensors(images, masks, tuple(map(str, range(len(images)))), class_values=tuple(range(int(masks.max()) + 1)))
        window = self.window_of(data.sizes)
        drawn = self.fit(data, channels=data.channels, num_classes=data.num_classes, window=window, seed=seed, device=device, events=events)
        return torch.stack([perturb(drawn, image, mask, window) for image, mask in zip(images, masks, strict=True)])

    def fit(
        self, data: Pictures, *, channels: int, num_classes: int, window: tuple[int, int], seed: int = 0, device: str = "auto",
        events: Events = SILENT,
    ) -> Perturbation:  # fmt: skip
        """Fit the perturbators to a data set; see `calotype.methods.umed.fitting.fit`."""
        config = network_config("unet", channels=channels, classes=num_classes, window=window, widths=self.surrogate_widths)

        def make(number: int) -> BiLevel:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> 1))
                drawn = Perturbation(
                    channels, num_classes, epsilon=self.epsilon / 255, band=self.band, side=self.side, texture=self.texture,
                    widths=self.widths, sees_masks=self.sees_masks, high_pass=self.high_pass, parts=self.parts,
                )  # fmt: skip
                return BiLevel(drawn, make_network(config), surrogate_every=self.surrogate_every, carriers=self.carriers)

        numbers = Fit(
            steps=self.fit_steps, batch_size=self.batch_size, learning_rate=self.learning_rate, tries=self.tries, try_steps=self.try_steps
        )
        return fit(make, data, numbers, window=window, seed=seed, device=device, events=events)

    def window_of(self, sizes: tuple[tuple[int, ...], ...]) -> tuple[int, int]:
        """Sides of the windows: at most `window`, and no more than the smallest picture has.

        Raises:
            InputError: a picture is too small.
        """
        height, width = (min(self.window, *(size[axis] for size in sizes)) // STRIDE * STRIDE for axis in (0, 1))
        if min(height, width) < 2 * STRIDE:
            raise InputError(
                f"data: the smallest picture has a side of {min(min(size) for size in sizes)}; {2 * STRIDE} pixels are the least"
            )
        return height, width

    @staticmethod
    def _open(
        data: DatasetFolder, classes: tuple[int, ...] | None, intensity: tuple[float, float] | None, events: Events
    ) -> SegmentationFolder:
        folder = SegmentationFolder.open(data.path, classes=classes, intensity=intensity, empty_masks=True, events=events)
        if folder.spatial_dims != 2 or not folder.intensity.depth:
            raise InputError("data: umed protects pictures of 8 or 16 bits; save slices of volumes as PNG of 16 bits first")
        if folder.intensity.depth == 16 and folder.channels != 1:
            raise InputError("data: pictures of 16 bits and several channels can't be written; save them with 8 bits")
        if len(folder) < 2:
            line = f"data: {folder.root} holds {len(folder)} picture; a fit needs two or more"
            raise DataError(line, [line])
        return folder

    def _notes(self, folder: SegmentationFolder, events: Events) -> list[str]:
        """What the user should know before the fit: whether sensor noise hides what protects."""
        found = []
        for row in folder.content[:: max(1, len(folder) // NOISE_SAMPLE)]:
            pair = folder.read(row)
            support = regions(pair["mask"][None], folder.num_classes, self.band, self.side).support
            if bool(support.any()):
                found.append(255 * sensor_noise(pair["image"][None], support))
        noise = sorted(found)[len(found) // 2] if found else 0.0
        events.metric("sensor_noise", noise)
        line = f"data: sensor noise and fine texture of {noise:.1f}/255 where the pictures are changed, at a budget of {self.epsilon:g}/255"
        if noise >= NOISE_LIMIT * self.epsilon:
            enough = noise / NOISE_WEAK
            line = f"{line}: NOTHING PROTECTS such pictures within the budget; raise epsilon above {enough:.0f}, or don't publish them"
        elif noise >= NOISE_WEAK * self.epsilon:
            line = f"{line}: this protects LITTLE; raise epsilon above {noise / NOISE_WEAK:.0f}"
        events.note(line)
        return [line] if noise >= NOISE_WEAK * self.epsilon else []

    def _report(self, folder: SegmentationFolder, protected: DatasetFolder, notes: list[str], events: Events) -> HtmlReport:
        """Measured on the written files. Raises `InputError` never for a change above the budget: the report says so."""
        tally, rule = Tally(), folder.intensity
        for one in _written(folder, protected):
            tally.add(one)
        for name, value in tally.metrics().items():
            events.metric(name, value)
        bound = round(self.epsilon / 255 * (rule.high - rule.low))
        return report(tally, epsilon=self.epsilon, bound=bound, depth=rule.depth, notes=notes, settings=dataclasses.asdict(self))


def _written(folder: SegmentationFolder, protected: DatasetFolder) -> Iterator[Change]:
    """Every picture before and after, both read from their files."""
    from calotype.data.raw import read_raw

    for row in folder.content:
        after = read_raw(protected.path / "images" / f"{row.stem}.png", name="protected")
        yield Change(row.stem, read_raw(folder.path(row, "image"), name="data").values, after.values, folder.read(row)["mask"], after.depth)
