"""The training of a feed-forward segmenter on a user's pictures and masks.

Windows of `window` pixels are cut out of the pictures at random, mirrored, turned and, where `colour` asks for it, coloured anew; the loss
is Dice plus cross-entropy. `calotype.train.segmenter.fit_segmenter` has the same loss and batches in memory.
"""

from __future__ import annotations

import colorsys
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calotype.backbones.folder import open_checkpoint
from calotype.backbones.headers import read_json
from calotype.backbones.segmenter import in_windows
from calotype.backbones.segmenter_network import (
    PIPELINE,
    Architecture,
    NormName,
    PictureFacts,
    load_part,
    make_network,
    network_config,
    save_segmenter,
)
from calotype.core.events import SILENT, Events
from calotype.data.folders import DataSet
from calotype.data.manifest import NAME
from calotype.data.mixed import MixedData
from calotype.data.segmentation_files import listed
from calotype.data.segmentation_folder import SegmentationFolder
from calotype.data.windows import SegmentationWindows
from calotype.errors import InputError
from calotype.imaging.files import write_json
from calotype.metrics.segmentation import by_patient, dice, over_patients
from calotype.train.recipe import Settings
from calotype.train.rng import BatchRng
from calotype.train.segmentation_batches import Augmentation, SegmentationLoss, channels_last
from calotype.train.training import SPLIT_SEED, Training

SHOWN = 8
"""Held-out windows on a sheet."""
MEASURED = 24
"""Held-out pictures whose Dice stands beside a sheet."""


class SegmentationRows(Protocol):
    """Rows `image` [C, *sides] in [0, 1] and `mask` [*sides] of class numbers, by number."""

    def __len__(self) -> int: ...

    def rows(self, indices: Sequence[int]) -> dict[str, Tensor]: ...


class TraineeSegmenter(nn.Module):
    """A network and its loss."""

    def __init__(self, network: nn.Module, facts: PictureFacts, loss: SegmentationLoss) -> None:
        super().__init__()
        self.network, self.facts, self.loss = network, facts, loss

    def forward(self, batch: Mapping[str, Tensor]) -> Float[Tensor, " batch"]:
        """`image` [B, C, *sides] in [0, 1], `mask` [B, *sides] int64; the loss of each sample."""
        found: Float[Tensor, " batch"] = self.loss(self.network(channels_last(batch["image"])), batch["mask"])
        return found


class SegmentationBatches:
    """Batches of a data set's rows, changed at random in training."""

    def __init__(self, data: SegmentationRows, augment: Augmentation, device: str) -> None:
        self.data, self.augment, self.device, self.count = data, augment, device, len(data)

    def batch(self, rows: Sequence[int], rng: BatchRng, *, augment: bool) -> dict[str, Tensor]:
        """See `calotype.train.recipe.Source`."""
        found = self.data.rows([row % self.count for row in rows])
        image, mask = found["image"], found["mask"]
        if augment:
            image, mask = self.augment(image, mask, rng)
        return {"image": image.to(self.device), "mask": mask.to(self.device)}


@dataclass(frozen=True, kw_only=True)
class SegmenterTraining(Training):
    """A feed-forward segmenter from a folder of pictures and masks.

    Example:
        >>> SegmenterTraining(architecture="segresnet", channels=(8, 16, 32), colour=1.0).window
        (64, 64)
    """

    slug: ClassVar[str] = "diffusion-segmentation"
    folders: ClassVar[tuple[str, ...]] = ("synthetic",)

    architecture: Architecture = "unet"
    """Of the network: nnU-Net's, or another one of MONAI's."""
    channels: tuple[int, ...] = (16, 32, 64)
    """Of the network's levels, each with half the resolution of the one before."""
    norm: NormName = "instance"
    """Of the network's features; `instance` and `group` remove much of a picture's own contrast."""
    window: tuple[int, ...] = (64, 64)
    """Sides in pixels or voxels that the network sees; larger pictures are seen in windows."""
    lambda_dice: float = 1.0
    """Weight of the Dice loss over the classes but the background."""
    lambda_ce: float = 1.0
    """Weight of the cross-entropy over all pixels."""
    flips: bool = True
    """Mirror along each axis, half of the time."""
    turns: bool = True
    """Turn by right angles, where the window's first two sides are equal."""
    colour: float = 0.0
    """Strength of random colours, 0 to 1; at 1, any hue."""
    classes: tuple[int, ...] = ()
    """The masks' values in the order of the classes, the background first; by default all that occur, ascending."""
    merge: bool = False
    """Make one class of all but the background."""
    intensity: tuple[float, ...] = ()
    """Two numbers of the files that become 0 and 1; by default 0 and 255 of 8 bits, else the range of all files."""
    empty_masks: bool = False
    """Take masks without foreground, which are refused otherwise."""
    synthetic: str = ""
    """Folder of further pictures and masks, such as synthetic ones. Nothing is held out of it."""
    ratio: tuple[float, float] = (0.2, 0.8)
    """Shares of the windows that are from the data and from `synthetic`."""
    held_out_windows: int = 256
    """Windows that the result is measured on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.network(1, 2)
        self.augmentation()
        if self.lambda_dice < 0 or self.lambda_ce < 0 or not self.lambda_dice + self.lambda_ce > 0:
            raise InputError(f"lambda_dice is {self.lambda_dice} and lambda_ce {self.lambda_ce}; neither may be below 0, nor both 0")
        if len(self.intensity) not in (0, 2):
            raise InputError(f"intensity is {self.intensity}; it must be two numbers, such as -160 240")
        if len(self.ratio) != 2 or min(self.ratio) < 0 or abs(sum(self.ratio) - 1) > 1e-6:
            raise InputError(f"ratio is {self.ratio}; it must be two shares that sum to 1, such as .2 .8")
        if self.held_out_windows < 1:
            raise InputError(f"held_out_windows is {self.held_out_windows}; it must be 1 or more")

    def network(self, channels: int, classes: int) -> dict[str, Any]:
        """The network's config for pictures of so many channels. A subclass may give another one."""
        return network_config(
            self.architecture, channels=channels, classes=classes, window=self.window, widths=self.channels, norm=self.norm
        )

    def augmentation(self) -> Augmentation:
        """The random changes of a batch."""
        return Augmentation(flips=self.flips, turns=self.turns, colour=self.colour)

    def settings(self) -> Settings:
        """The loop's numbers."""
        often = min(64, self.held_out_windows)
        return replace(super().settings(), held_out=self.held_out_windows, held_out_often=often, held_out_seed=7006)

    def data_set(self, data: Path, kept: Path, events: Events = SILENT) -> DataSet:
        """Windows of the pictures and masks of a folder, and of the synthetic ones beside it.

        Raises:
            InputError: the window has another number of sides than the pictures, or the synthetic pictures have other channels.
        """
        limits = (self.intensity[0], self.intensity[1]) if self.intensity else None
        real = self._folder(data, kept / NAME, classes=self.classes or None, intensity=limits)
        if real.spatial_dims != len(self.window):
            told = "two sides, such as 64 64" if real.spatial_dims == 2 else "three sides, such as 32 32 32"
            raise InputError(f"window is {self.window}, and the {'pictures' if real.spatial_dims == 2 else 'volumes'} of data need {told}")
        windows = SegmentationWindows(real, self.window)
        if not self.synthetic:
            return windows
        further = self._folder(Path(self.synthetic).expanduser(), kept / "synthetic" / NAME, classes=real.class_values)
        if further.channels != real.channels:
            raise InputError(f"synthetic: its pictures have {further.channels} channels, and those of data {real.channels}")
        # Synthetic pictures are often written in 8 bits whatever the originals have; then 0 and 255 are their 0 and 1.
        if further.intensity.depth == real.intensity.depth:
            further = replace(further, intensity=real.intensity)
        return MixedData((windows, SegmentationWindows(further, self.window)), self.ratio)

    def _folder(self, folder: Path, manifest: Path, **more: Any) -> SegmentationFolder:
        return SegmentationFolder.open(
            folder, merge=self.merge, empty_masks=self.empty_masks, size_at_least=self.window, manifest=manifest, **more
        )

    def check(self, data: DataSet, events: Events = SILENT) -> None:
        """Tell what was found; `data_set` has read every file."""
        for name, part in zip(("data", "synthetic"), data.parts if isinstance(data, MixedData) else (data,), strict=False):
            pictures = _pictures(part)
            for note in pictures.notes:
                events.note(f"{name}: {note}")
            rule, (first, *others) = pictures.intensity, pictures.class_values
            told = "the class is" if len(others) == 1 else "the classes are"
            named = "all else is one class" if self.merge else f"{told} {', '.join(map(str, others))}"
            held = ""
            if name == "data":
                _, out = pictures.split(self.held_out_share, SPLIT_SEED)
                held = f"; held out: {len(out)} of them, of {listed(sorted(set(out.patients)), 5)}"
            events.note(
                f"{name}: {len(pictures)} pictures of {len(set(pictures.patients))} patients; in the masks {first} is the background and "
                f"{named}; intensities {rule.low:g} to {rule.high:g} become 0 to 1{held}"
            )

    def check_start(self, start: Path, data: DataSet, events: Events = SILENT) -> None:
        """Refuse another kind of model, another network, and other channels, classes or intensities than the data's."""
        checkpoint = open_checkpoint(start)
        if checkpoint.layout.class_name != PIPELINE:
            raise InputError(f"{start.name} is of the role {checkpoint.role} ({checkpoint.layout.class_name}); give a {PIPELINE}")
        facts = self._facts(data)
        known = {**read_json(checkpoint.parts["network"].folder / "config.json"), **PictureFacts.of_index(checkpoint.index).entries()}
        for name, value in {**self.network(facts.channels, facts.num_classes), **facts.entries()}.items():
            if known.get(name) != value:
                raise InputError(f"the checkpoint to begin with has {name} {known.get(name)}, and {value} is needed here")

    def build(self, data: DataSet, *, seed: int, start: Path | None = None) -> TraineeSegmenter:
        """The network, from an exported folder or from random weights."""
        facts = self._facts(data)
        loss = SegmentationLoss(lambda_dice=self.lambda_dice, lambda_ce=self.lambda_ce)
        if start is not None:
            return TraineeSegmenter(load_part(open_checkpoint(start).parts["network"]), facts, loss)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return TraineeSegmenter(make_network(self.network(facts.channels, facts.num_classes)), facts, loss)

    def _facts(self, data: DataSet) -> PictureFacts:
        pictures = _pictures(data)
        return PictureFacts(
            window=self.window, channels=pictures.channels, class_values=tuple(pictures.class_values[: pictures.num_classes]),
            intensity=pictures.intensity.to_json(),
        )  # fmt: skip

    def source(self, trainee: TraineeSegmenter, data: SegmentationRows, device: str) -> SegmentationBatches:
        """Batches of the windows."""
        return SegmentationBatches(data, self.augmentation(), device)

    def draw(self, trainee: TraineeSegmenter, source: SegmentationBatches, path: Path) -> list[Path]:
        """Held-out windows, a row each: the picture, the true classes, the probabilities as mixed colours of the classes."""
        from calotype.train.sample_grids import save_grid

        found = source.data.rows([row % source.count for row in range(SHOWN)])
        device = next(trainee.parameters()).device
        with torch.no_grad():
            probability = trainee.network(found["image"].to(device)).float().softmax(1).cpu()
        truth = nn.functional.one_hot(found["mask"], probability.shape[1]).movedim(-1, 1).float()
        panels = [pictured(found["image"]), coloured(truth), coloured(probability)]
        sheet = save_grid(torch.stack(panels, 1).flatten(0, 1), len(panels), path, scale=2)
        write_json(path.with_suffix(".json"), held_out_dice(trainee, _pictures(source.data)))
        return [sheet, path.with_suffix(".json")]

    def write(self, trainee: TraineeSegmenter, folder: Path, *, rounded: bool = False) -> None:
        """See `calotype.backbones.segmenter_network`; `rounded` keeps 8 bits a weight."""
        config = self.network(trainee.facts.channels, trainee.facts.num_classes)
        save_segmenter(folder, trainee.network, config, trainee.facts, rounded=rounded)


def held_out_dice(trainee: TraineeSegmenter, pictures: Any, most: int = MEASURED) -> dict[str, Any]:
    """Dice of whole held-out pictures: each patient's mean over the classes, and each class's over the patients.

    Args:
        trainee: what is measured.
        pictures: a `SegmentationFolder` or `SegmentationTensors`.
        most: pictures; the patients take turns.
    """
    device = next(trainee.parameters()).device
    turns: dict[str, int] = defaultdict(int)
    order = []
    for number, patient in enumerate(pictures.patients):
        order.append((turns[patient], number))
        turns[patient] += 1
    chosen = [number for _, number in sorted(order)[:most]]
    scores = []
    for number in chosen:
        row = pictures.rows([number])
        with torch.no_grad():
            found = in_windows(lambda x: trainee.network(x.to(device)).float().softmax(1).cpu(), row["image"], trainee.facts.window)
        scores.append(dice(found.argmax(1), row["mask"], trainee.facts.num_classes)[0])
    table, patients = torch.stack(scores), [pictures.patients[number] for number in chosen]
    values = trainee.facts.class_values[1:]
    per_class = {str(value): over_patients(table[:, place], patients).mean.value for place, value in enumerate(values)}
    made = {"dice_by_class": per_class, "dice_by_patient": by_patient(table.nanmean(1), patients)}
    # JSON has no NaN: a class or a patient without a number.
    known = {name: {key: None if math.isnan(one) else round(one, 4) for key, one in numbers.items()} for name, numbers in made.items()}
    return {"pictures": len(chosen), **known}


def _pictures(data: Any) -> Any:
    """The whole pictures that windows are cut out of."""
    return getattr(data, "pictures", data)


def pictured(images: Float[Tensor, "batch channels *sides"]) -> Float[Tensor, "batch 3 height width"]:
    """Pictures as colours: three channels as they are, else the first one as grey; of a volume, the middle slice."""
    flat = images if images.ndim == 4 else images[..., images.shape[-1] // 2]
    return flat if flat.shape[1] == 3 else flat[:, :1].expand(-1, 3, -1, -1)


def coloured(probability: Float[Tensor, "batch classes *sides"]) -> Float[Tensor, "batch 3 height width"]:
    """Each pixel's mean colour: black for the background, white for a single class, else hues that are equally far apart."""
    flat = probability if probability.ndim == 4 else probability[..., probability.shape[-1] // 2]
    classes = flat.shape[1]
    hues = [colorsys.hsv_to_rgb(number / (classes - 1), 0.75, 1.0) for number in range(classes - 1)] if classes > 2 else [(1.0, 1.0, 1.0)]
    return torch.einsum("bkhw,kc->bchw", flat, torch.tensor([(0.0, 0.0, 0.0), *hues]))
