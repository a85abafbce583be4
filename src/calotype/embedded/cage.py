"""The recipe of `toy-cage`: `CAGETraining` on clips of the collisions world, which are painted and encoded once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from calotype.backbones.autoencoder import LatentSpace
from calotype.core.events import Events
from calotype.embedded.card import Card, Gate
from calotype.methods.cage.training import CAGETraining, ControlledBatches, TraineeCAGE
from calotype.train.clip_latents import encoded
from calotype.train.latents import Chunks
from calotype.train.recipe import Settings
from calotype.world.collisions import paint_bouncing, sample_bouncing

VAE = "toy-vae-wide"
FRAMES = 12
"""Of a clip."""
CHUNK = 100


class CAGERecipe:
    """Clips of 12 frames at 64 px of one to three sprites."""

    name = "toy-cage"
    training = CAGETraining(num_frames=FRAMES)
    settings: Settings = replace(training.settings(), cuda_batch_size=64, warm_learning_rate=7e-4)
    train_clips, tune_clips = 5000, 200
    gates = (Gate("hit_rate", 0.8), Gate("hit_rate_without_control", 0.15, at_most=True), Gate("composed", 0.7))
    card = Card(
        about=(
            "Features of objects at cells of frames to come, and frames that are known, to three frames at once: a transformer of 1.3 "
            "million weights over 8x8 cells a frame, and an encoder of control features that was learnt from the same clips without labels "
            "(`calotype.backbones.control_video_network`, `control_features`). It knows eight sprites and six grounds."
        ),
        data="the collisions world",
        made_from="clips that the toy world paints",
    )

    def build(self, *, seed: int, start: Path | None, checkpoints: Path) -> TraineeCAGE:
        """Network and encoder, from an exported folder or from random weights."""
        features = self.training.features if start is None else str(start)
        made = replace(self.training, autoencoder=str(checkpoints / VAE), features=features).build(None, seed=seed, start=start)
        made.projection.requires_grad_()  # so that the stage of the features has something to train where they are there already
        return made

    def source(
        self, trainee: TraineeCAGE, *, split: str, seed: int, folder: Path, checkpoints: Path, start: Path | None, device: str
    ) -> ControlledBatches:
        """Windows of a split's clips."""
        space = LatentSpace(trainee.latent_space.vae.to(device), torch.device(device))
        count = self.train_clips if split == "train" else self.tune_clips

        def make(first: int, number: int) -> dict[str, Tensor]:
            scenes = [sample_bouncing(split=split, seed=seed, index=first + row, num_frames=FRAMES) for row in range(number)]
            return encoded(space, paint_bouncing(scenes), pixels=True)

        chunks = Chunks(make, count=count, chunk=min(CHUNK, count), folder=folder / f"collisions-{split}-{seed}")
        return self.training.batches(trainee, chunks, device)

    def sample_grid(self, trainee: TraineeCAGE, source: ControlledBatches, path: Path) -> list[Path]:
        """See `CAGETraining.draw`."""
        return self.training.draw(trainee, source, path)

    def export(self, trainee: TraineeCAGE, source: ControlledBatches, folder: Path) -> None:
        """See `calotype.backbones.composable_video`; weights in 8 bits."""
        self.training.write(trainee, folder, rounded=True)

    def validate(self, folder: Path, *, seed: int, count: int | None, device: str, events: Events) -> Mapping[str, float]:
        """The method's claims on the model (`calotype.evaluation.cage`)."""
        from calotype.evaluation.cage import model_figures

        figures: Mapping[str, float] = model_figures(folder, seed=seed, count=count, device=device, events=events)
        return figures
