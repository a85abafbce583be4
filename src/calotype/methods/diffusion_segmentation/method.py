"""Diffusion segmentation: masks of a picture by removing noise, several of them, and what they agree on.

M. Öttl, S. Mei, F. Wilm, J. Steenpass, M. Rübner, A. Hartmann, M. Beckmann, P. Fasching, A. Maier, R. Erber, K. Breininger: "Analysing
Diffusion Segmentation for Medical Images", arXiv 2403.14440.

The idea: a mask is a sample of a diffusion model that is given the picture. Where the picture leaves a border open, samples differ, so
their mean is a probability that means something, and their spread says where it is uncertain. The paper asks what that training adds to
the same network without diffusion, at which noise levels it learns, and how the objects' size decides that (`calotype eval
diffusion-segmentation`).

    x      <- sigma_0 n for each of N samples
    x0     = fuse(network(windows of x, windows of the picture))      `calotype.core.paths`, in every step
    x      <- step(x, clip(x0))                                       `calotype.core.samplers.ddim_step`
    p_i    = (clip(x_i) + 1) / 2                                      each sample is clipped before they are fused
    p      = mean, vote or STAPLE of p_1 ... p_N                      `calotype.core.mask_fusion`
    mask   = the most probable class

Results are for research; they are no diagnosis and no basis for one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.backbones.diffusion_segmenter import DiffusionSegmenter
from calotype.backbones.segmenter import Segments
from calotype.core import fields
from calotype.core.events import SILENT, Events
from calotype.core.mask_fusion import FuseName, fuse_masks
from calotype.core.method import Method
from calotype.errors import InputError
from calotype.imaging.types import Image, Volume
from calotype.methods.diffusion_segmentation.files import LabelPicture, LabelVolume, Scan, ScanLike, as_scan, to_unit

_NEEDS = "a segmenter; take toy-segmenter, or a folder that `calotype train diffusion-segmentation --data DIR --out FOLDER` made"


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What a run gives, on the picture's grid. For research, not for diagnosis."""

    mask: LabelPicture | LabelVolume
    """The most probable class, as its value in the masks that were trained on."""
    probability: Image | Volume
    """0 to 1: of two classes, that of the foreground; of more, that of the class in the mask."""
    spread: Image | Volume | None
    """Twice the standard deviation of that probability over the samples: 0 where they agree, 1 where half of them say one thing and half
    another. It says how far they agree, not how far they are right. None with one sample."""
    probabilities: Float[Tensor, classes * sides]
    """Of every class."""


@dataclass(frozen=True, kw_only=True)
class DiffusionSegmentation(Method):
    """The mask of a picture, a slice or a volume, with its probability and where it is uncertain (Öttl et al. 2024).

    A checkpoint knows the kind of pictures and the classes that it was trained on, and finds its classes in any other picture as well. One
    that was trained without diffusion gives its one mask.

    Example:
        >>> DiffusionSegmentation().num_samples, DiffusionSegmentation.paper().num_inference_steps
        (8, 1000)
    """

    slug: ClassVar[str] = "diffusion-segmentation"
    role: ClassVar[str] = "Segmenter"
    presets: ClassVar[tuple[str, ...]] = ("fast", "paper")

    num_samples: int = 8
    """Masks that are sampled."""
    num_inference_steps: int = 25
    """Denoising steps."""
    eta: float = 0.0
    """Fresh noise in each step: 0 is deterministic (DDIM), 1 is DDPM."""
    fuse: FuseName = "mean"
    """How samples become one mask: `mean` of their probabilities, `vote`, or `staple`, which weighs them by how well they agree."""
    overlap: float = 0.5
    """Share of a window that the next one repeats, for pictures that are larger than what the network sees."""

    def __post_init__(self) -> None:
        fields.one_of(self, fuse=get_args(FuseName))
        fields.at_least(self, 1, "num_samples", "num_inference_steps")
        fields.between(self, 0, 1, "eta")
        fields.between(self, 0, 0.9, "overlap")

    @classmethod
    def fast(cls) -> Self:
        """Eight samples of 25 deterministic steps."""
        return cls()

    @classmethod
    def paper(cls) -> Self:
        """As the assessed networks are sampled: five samples of all 1000 steps of DDPM."""
        return cls(num_samples=5, num_inference_steps=1000, eta=1.0)

    def __call__(self, model: Segments, image: ScanLike, *, seed: int = 0, events: Events = SILENT) -> Segmentation:
        """Find the mask.

        Args:
            model: a segmenter, as `calotype.load("toy-segmenter")` returns it.
            image: PNG, JPEG, TIFF (also 16 bits), DICOM slice, NIfTI slice or volume, like those that the model was trained on.
            seed: of the noise; sample i is the first of seed + i.
            events: hears steps, notes and the metric `model_calls`, and keeps the state of an interrupted run.

        Returns:
            The mask with the training masks' own values, its probability and the spread over the samples.

        Raises:
            InputError: the model has another role, the picture is refused, or is of another kind than those that were trained on.
        """
        self.refuse_other_roles(model, needs=_NEEDS)
        scan = as_scan(image, events=events)
        pixels = self._pixels(model, scan, events)
        if isinstance(model, DiffusionSegmenter) and model.diffusion.objective != "feed-forward":
            samples = model.samples(
                pixels[None], num_samples=self.num_samples, num_inference_steps=self.num_inference_steps, eta=self.eta,
                overlap=self.overlap, seed=seed, events=events, key=self.slug,
            )  # fmt: skip
            found, several = fuse_masks(samples[0][:, None], self.fuse)[0], samples[0]
        else:
            events.note(f"{model.name} was trained without diffusion: it gives one mask, and no spread")
            found = model.segment(pixels[None])[0]
            several = found[None]
        return self._result(model, scan, found.cpu(), several.cpu())

    def _pixels(self, model: Segments, scan: Scan, events: Events) -> Float[Tensor, channels * sides]:
        """The picture in [0, 1], as the model was trained to see it."""
        sides = scan.raw.sides
        if len(sides) != len(model.window):
            one, several = {2: "a picture or a slice", 3: "a volume"}, {2: "pictures or slices", 3: "volumes"}
            raise InputError(f"image is {one[len(sides)]} and the model was trained on {several[len(model.window)]}; give one of these")
        if any(side < least for side, least in zip(sides, model.window, strict=True)):
            shown = "x".join(map(str, sides)), "x".join(map(str, model.window))
            events.note(f"image: its sides {shown[0]} are smaller than the network's window {shown[1]}; it is continued by its border")
        return to_unit(scan, model.intensity, model.channels, events=events)

    def _result(self, model: Segments, scan: Scan, found: Tensor, several: Tensor) -> Segmentation:
        classes = found.argmax(0)
        labels = torch.tensor(model.class_values)[classes]
        named = torch.ones_like(classes) if model.num_classes == 2 else classes
        probability = found.gather(0, named[None])[0].float()
        spread = None
        if len(several) > 1:
            of_named = several.gather(1, named[None, None].expand(len(several), 1, *named.shape))[:, 0]
            spread = (2 * of_named.std(0, unbiased=False)).clamp(0, 1).float()
        grid, values = scan.raw.volume, tuple(model.class_values)
        if grid is None:
            pictures = [None if one is None else Image(one.expand(3, -1, -1).contiguous()) for one in (probability, spread)]
            return Segmentation(LabelPicture(labels, values), pictures[0], pictures[1], found)  # type: ignore[arg-type]
        laid = [None if one is None else Volume(scan.on_grid(one), grid.affine, header=grid.header) for one in (probability, spread)]
        mask = LabelVolume(scan.on_grid(labels), values, grid.affine, grid.header)
        return Segmentation(mask, laid[0], laid[1], found)  # type: ignore[arg-type]


METHOD = DiffusionSegmentation
