"""Style-extracting diffusion: annotated pictures made from known layouts, in the styles of pictures that nobody annotated.

M. Öttl, F. Wilm, J. Steenpass, J. Qiu, M. Rübner, A. Hartmann, M. Beckmann, P. Fasching, A. Maier, R. Erber, B. Kainz, K. Breininger:
"Style-Extracting Diffusion Models for Semi-Supervised Histopathology Segmentation", arXiv 2403.14429 (ECCV 2024).

The idea: a picture is content and style. Content is given as a layout y; the style is extracted by an encoder E from other pictures s of
the same origin, and let into a diffusion model as one vector, which can carry stain and texture but no places. Layouts of annotated
pictures with styles of plain ones make annotated pictures of styles that nobody annotated, on which a segmenter is trained.

    c      = layout(y),  v = aggregate(E(s_1), ..., E(s_K))     `calotype.backbones.style_network`
    x      <- sigma_0 n
    x0     = D(x; c, none) + w (D(x; c, v) - D(x; c, none))       guidance by the style alone: the layout is in both
    x      <- step(x, x0)                                        DDIM, eta 0
    picture = decode(x), annotated by y

For research; pictures that are made here are no evidence of anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from calotype.backbones.layout_style import LayoutStyleToImage
from calotype.core import fields
from calotype.core.artifacts import DatasetFolder
from calotype.core.events import SILENT, Events
from calotype.core.guidance import ClassifierFreeGuidance
from calotype.core.method import Evaluations, Method
from calotype.core.noise import batch_noise, renoiser
from calotype.core.samplers import ddim_step, sample
from calotype.data.segmentation_folder import Pair, SegmentationFolder, UnlabelledFolder, write_segmentation
from calotype.errors import InputError
from calotype.methods.style_extracting_diffusion.plan import Plan

_NEEDS = "a model of layouts and styles; take toy-tissue, or a folder that `calotype train style-extracting-diffusion` made"


@dataclass(frozen=True, kw_only=True)
class StyleExtractingDiffusion(Method):
    """Annotated pictures from layouts and other pictures' styles (Öttl et al. 2024).

    Example:
        >>> StyleExtractingDiffusion.paper().num_inference_steps, StyleExtractingDiffusion.toy().guidance_scale
        (128, 1.5)
    """

    slug: ClassVar[str] = "style-extracting-diffusion"
    role: ClassVar[str] = "LayoutStyleToImage"
    presets: ClassVar[tuple[str, ...]] = ("paper", "toy")

    num_inference_steps: int = 128
    """Denoising steps (paper's code: 128)."""
    guidance_scale: float = 1.5
    """How much the style counts: D(layout) + this x (D(layout, style) - D(layout)); 1 is no guidance (paper's code: 1.5)."""
    eta: float = 0.0
    """Fresh noise in each step: 0 is deterministic, 1 is DDPM (paper's code: 0)."""
    num_styles: int = 1
    """Style pictures of one patient that each picture's style is extracted from."""
    batch_size: int = 16
    """Pictures that are made at once."""

    def __post_init__(self) -> None:
        fields.at_least(self, 1, "num_inference_steps", "num_styles", "batch_size")
        fields.between(self, 0.0, 1.0, "eta")
        fields.between(self, 0.0, 50.0, "guidance_scale")

    @classmethod
    def paper(cls) -> Self:
        """The official code's numbers."""
        return cls()

    @classmethod
    def toy(cls) -> Self:
        """For toy-tissue: 20 steps."""
        return cls(num_inference_steps=20)

    def __call__(
        self, model: LayoutStyleToImage, layouts: DatasetFolder, styles: DatasetFolder, *, count: int = 100, seed: int = 0,
        events: Events = SILENT,
    ) -> DatasetFolder:  # fmt: skip
        """Make a data set.

        Args:
            model: toy-tissue, or a folder of `calotype train style-extracting-diffusion`.
            layouts: a folder of pictures with masks (`images/`, `masks/`); the masks are the layouts, the pictures aren't looked at.
            styles: a folder of pictures, annotated or not, with a `table.csv` that names their patients.
            count: pictures to make. Layouts take turns; the patients of the styles take turns too.
            seed: of the choice of layouts and styles, and of the noise.
            events: hears each picture, and at the end the metric `model_calls`: the evaluations of this session, without those of batches
                that an interrupted run had finished. A run that was stopped goes on with the next batch.

        Returns:
            A folder as `calotype train diffusion-segmentation --synthetic` takes it: `images/`, `masks/`, and `table.csv` with each row's
            layout, style pictures and patient.

        Raises:
            InputError: a model of another role, layouts of other classes or smaller than the model's window, no pictures.
            DataError: files that can't be used; it has a line for each.
        """
        self.refuse_other_roles(model, needs=_NEEDS, capabilities=(LayoutStyleToImage,))
        if count < 1:
            raise InputError(f"count is {count}; it must be 1 or more")
        # Of two classes, whatever isn't the background is the other one; of more, each must have the value that was trained on.
        two = model.num_classes == 2
        drawn = SegmentationFolder.open(
            layouts.path, classes=None if two else model.class_values, merge=two, empty_masks=True, size_at_least=model.size
        )
        plain = UnlabelledFolder.open(styles.path, size_at_least=model.size)
        if plain.intensity.depth == model.intensity.depth:
            plain = replace(plain, intensity=model.intensity)
        elif plain.intensity.depth != 8:
            rule = plain.intensity
            events.note(f"styles: intensities {rule.low:g} to {rule.high:g} become 0 to 1; the training's had another depth")
        plan = Plan.draw(drawn, plain, count=count, num_styles=self.num_styles, size=model.size, seed=seed)
        for name, folder in (("layouts", drawn), ("styles", plain)):
            for note in folder.notes:
                events.note(f"{name}: {note}")
        told = f"{len(drawn)} layouts, {len(plain)} style pictures of {len(set(plain.patients))} patients"
        events.note(f"{told}; pictures of {model.size[1]}x{model.size[0]} px")
        if drawn.channels == 1:
            events.note("the layouts' own pictures are grey, so the made ones are")
        made = DatasetFolder.temporary()
        events.stage("make pictures", count)
        rows = self._pictures(model, plan, seed=seed, events=events)
        write_segmentation(made.path, rows, class_values=model.class_values)
        return made

    def _pictures(self, model: LayoutStyleToImage, plan: Plan, *, seed: int, events: Events) -> Iterator[Pair]:
        """One row after the other, in batches; a batch that an interrupted run had finished is taken from it, and costs no model calls."""
        calls = 0
        for first in range(0, len(plan), self.batch_size):
            numbers = range(first, min(first + self.batch_size, len(plan)))
            key = f"pictures-{first:06d}"
            masks, styles = plan.layouts(numbers), plan.styles(numbers)
            kept = events.load_state(key)
            if kept is None:
                made, spent = self._made(model, masks, styles, seed + first)
                calls += spent
                kept = {"pictures": (made * 255).round().to(torch.uint8)}
                events.save_state(key, kept)
            # From the 8 bits of the state, fresh or not: a resumed run writes the same files.
            pictures = kept["pictures"].float() / 255
            if plan.drawn.channels == 1:
                pictures = pictures.mean(1, keepdim=True)
            for number, picture, mask in zip(numbers, pictures, masks, strict=True):
                yield Pair(f"made{number:06d}", picture, mask, plan.told(number))
            events.step(len(numbers))
            events.check()
        events.metric("model_calls", float(calls))

    def generate(
        self, model: LayoutStyleToImage, layouts: Tensor, styles: Tensor | None, *, seed: int = 0, events: Events = SILENT
    ) -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1] of layouts [B, H, W] (class numbers) in the styles of pictures [B, K, 3, h, w] in [0, 1],
        or without a style.

        Picture i's noise is that of the seed + i, so it can be made alone. `events` hears the metric `model_calls`.
        """
        made, calls = self._made(model, layouts, styles, seed)
        events.metric("model_calls", float(calls))
        return made

    def _made(self, model: LayoutStyleToImage, layouts: Tensor, styles: Tensor | None, seed: int) -> tuple[Tensor, int]:
        """The pictures of `generate`, and how often the network was evaluated for them."""
        conditions = {"cond": model.condition(layouts, styles), "uncond": model.condition(layouts, None)}
        denoiser = model.denoiser(conditions, ClassifierFreeGuidance(self.guidance_scale if styles is not None else 1.0))
        sigmas = model.sigmas(self.num_inference_steps)
        size = (int(layouts.shape[-2]), int(layouts.shape[-1]))
        shape, rows = model.latent_shape(size), len(layouts)
        noise = batch_noise(shape, seed, rows) * model.init_noise_sigma(sigmas)
        latents = sample(denoiser, noise, sigmas, step=ddim_step(self.eta, renoiser(shape, seed, rows)))
        return model.decode(latents), denoiser.calls

    def evaluations(self) -> Evaluations:
        """Of one picture."""
        branches = 2 if self.guidance_scale > 1 else 1
        return Evaluations(branches * self.num_inference_steps, branches)
