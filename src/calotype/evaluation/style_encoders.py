"""What training the style encoder is worth: one short training twice, with the encoder trained, and with the encoder as it was drawn.

Both networks begin with the same weights and see the same samples in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

from calotype.backbones.loading import load
from calotype.core.events import SILENT, Events
from calotype.data.segmentation_folder import SegmentationTensors
from calotype.methods.style_extracting_diffusion.training import StyleExtractingDiffusionTraining
from calotype.methods.style_extracting_diffusion.windows import StyledWindows
from calotype.train.budget import Budget
from calotype.train.loop import Trainer, accelerator_for
from calotype.world.tissue import TissuePictures
from calotype.world.tissue.dataset import mask_values

TRAINING = StyleExtractingDiffusionTraining(block_out_channels=(32, 48, 64), batch_size=24, plain_share=0.3, held_out_samples=96)
"""A smaller network than toy-tissue's."""
STEPS = 1000
ENCODERS: Mapping[str, bool] = MappingProxyType({"trained-encoder": True, "frozen-encoder": False})
"""Rows, and whether their style encoder is trained."""


def samples(training: StyleExtractingDiffusionTraining, labelled: TissuePictures, plain: TissuePictures, pictures: int) -> StyledWindows:
    """Windows of painted tissue: annotated pictures, and plain ones, of patients with so many `pictures` each."""
    parts = [
        SegmentationTensors(
            part.image,
            part.mask,
            tuple(f"patient-{number // pictures}" for number in range(len(part.image))),
            tuple(mask_values("tissue")),
        )
        for part in (labelled, plain)
    ]
    return training.samples(*parts)


def short_training(
    training: StyleExtractingDiffusionTraining,
    data: StyledWindows,
    folder: Path,
    *,
    steps: int,
    seed: int,
    device: str,
    events: Events = SILENT,
) -> Any:
    """The model of a short training, loaded.

    Args:
        training: its numbers.
        data: what it sees; 15 % of the patients are kept out and measure nothing but its loss.
        folder: an empty one, for the training and its checkpoint.
        steps: of the training.
        seed: of weights, order and noise.
        device: as an evaluation is given.
        events: hears the steps.
    """
    accelerator = accelerator_for(device)
    trainee = training.build(data, seed=seed)
    train, held_out = (training.source(trainee, part, str(accelerator.device)) for part in data.split(training.held_out_share, seed))
    trainer = Trainer(
        training.slug, trainee, source=train, held_out=held_out, folder=folder / "training", budget=Budget(steps=steps), seed=seed,
        accelerator=accelerator, settings=training.settings(), events=events, save_every=600.0,
    )  # fmt: skip
    checkpoint = folder / "model"
    fitted: Any = trainer.fit().trainee
    training.write(fitted, checkpoint)
    return load(str(checkpoint), device=device)


def encoders(
    data: StyledWindows, *, training: StyleExtractingDiffusionTraining = TRAINING, steps: int = STEPS, seed: int = 0, device: str = "auto",
    events: Events = SILENT,
) -> Iterator[tuple[str, Any]]:  # fmt: skip
    """The two models, one after the other, with the names of their rows."""
    for name, train_encoder in ENCODERS.items():
        with TemporaryDirectory() as folder:
            make = partial(short_training, replace(training, train_encoder=train_encoder), data, Path(folder))
            yield name, make(steps=steps, seed=seed, device=device, events=events)
