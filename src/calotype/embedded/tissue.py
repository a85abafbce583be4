"""The recipe of `toy-tissue`: `StyleExtractingDiffusionTraining` on stained tissue of few annotated and more plain patients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from calotype.core.events import Events
from calotype.data.segmentation_folder import SegmentationTensors
from calotype.embedded.card import Card, Gate
from calotype.evaluation.style_extracting_diffusion import LABELLED_HUES, model_figures
from calotype.methods.style_extracting_diffusion.training import StyledBatches, StyleExtractingDiffusionTraining, TraineeStyle
from calotype.methods.style_extracting_diffusion.windows import StyledWindows
from calotype.train.recipe import Settings
from calotype.world.tissue import paint_tissue, sample_tissue
from calotype.world.tissue.dataset import mask_values

VAE = "toy-vae-wide"
LABELLED, PLAIN, PICTURES = 6, 30, 40
"""Annotated patients, plain patients, and pictures of each."""


def tissue_tensors(*, split: str, seed: int, patients: int, pictures: int, hues: tuple[float, float]) -> SegmentationTensors:
    """Pictures of stained tissue at 64 px with their layouts."""
    parts = []
    for patient in range(patients):
        indices = range(patient * pictures, (patient + 1) * pictures)
        scenes = [sample_tissue(split=split, seed=seed, index=index, pictures_per_patient=pictures, hues=hues) for index in indices]
        parts.append(paint_tissue(scenes, size=64))
    names = tuple(f"patient-{number // pictures}" for number in range(patients * pictures))
    images, masks = (torch.cat([getattr(part, name) for part in parts]) for name in ("image", "mask"))
    return SegmentationTensors(images, masks, names, tuple(mask_values("tissue")))


class TissueRecipe:
    """Six annotated patients of a narrow range of stains, thirty plain ones of all stains."""

    name = "toy-tissue"
    training = StyleExtractingDiffusionTraining(style_injection="temb")
    settings: Settings = replace(training.settings(), cuda_batch_size=128)
    gates = (Gate("hue_correlation", 0.8), Gate("layout_iou", 0.85))
    card = Card(
        about=(
            "Layout and style pictures to a picture of stained tissue: diffusers' `UNet2DModel` on 16x16x4 latents with a style block in "
            "its middle, and a trained style encoder (`calotype.backbones.style_network`). Of 36 patients, 6 were annotated, whose first "
            f"stain's hue lies between {LABELLED_HUES[0]:g} and {LABELLED_HUES[1]:g} of the range; 30 plain ones have any hue, and were "
            "trained on without layouts. Synthetic tissue; the model has seen no patient and is no medical device."
        ),
        data="stained tissue",
        made_from="pictures that the toy world paints",
    )

    def build(self, *, seed: int, start: Path | None, checkpoints: Path) -> TraineeStyle:
        """The networks, from an exported folder or from random weights."""
        small = self._data("tune", 0, patients=2, pictures=1)
        return replace(self.training, vae=str(checkpoints / VAE)).build(small, seed=seed, start=start)

    def source(
        self, trainee: TraineeStyle, *, split: str, seed: int, folder: Path, checkpoints: Path, start: Path | None, device: str
    ) -> StyledBatches:
        """Samples of a split's patients."""
        return self.training.source(trainee, self._data(split, seed), device)

    def _data(self, split: str, seed: int, *, patients: int | None = None, pictures: int = PICTURES) -> StyledWindows:
        labelled = tissue_tensors(split=split, seed=seed, patients=patients or LABELLED, pictures=pictures, hues=LABELLED_HUES)
        plain = tissue_tensors(split=split, seed=seed + 1, patients=patients or PLAIN, pictures=pictures, hues=(0.0, 1.0))
        return self.training.samples(labelled, plain)

    def sample_grid(self, trainee: TraineeStyle, source: StyledBatches, path: Path) -> list[Path]:
        """See `StyleExtractingDiffusionTraining.draw`."""
        return self.training.draw(trainee, source, path)

    def export(self, trainee: TraineeStyle, source: StyledBatches, folder: Path) -> None:
        """See `calotype.backbones.layout_style`; weights in 8 bits."""
        self.training.write(trainee, folder, rounded=True)

    def validate(self, folder: Path, *, seed: int, count: int | None, device: str, events: Events) -> dict[str, float]:
        """The method's claims on the generator: style and layout of what it makes (`calotype.evaluation.style_extracting_diffusion`)."""
        return model_figures(folder, seed=seed, count=count, device=device, events=events)
