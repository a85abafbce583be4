"""The recipe of `toy-qsm`: QSMDiff's training (`calotype.methods.qsmdiff.training`) on synthetic brains at 2 mm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calotype.core.events import Events
from calotype.data.volume_folder import VolumeWindows
from calotype.embedded.card import Card, Gate
from calotype.evaluation.qsmdiff import prior_figures
from calotype.methods.qsmdiff.training import QSMDiffTraining, TraineeQSM, WindowBatches
from calotype.train.latents import Chunks
from calotype.train.recipe import Settings
from calotype.world.brains.anatomy import sample_brain
from calotype.world.scenes.sampling import SPLITS


class Brains:
    """The brains of a split, kept under a folder; see `calotype.data.volume_folder.Volumes`."""

    def __init__(self, *, split: str, seed: int, brains: int, spacing: tuple[float, float, float], folder: Path) -> None:
        self.key, self.spacing, self.brains = (split, seed), spacing, brains
        self.chunks = Chunks(self._make, count=brains, chunk=1, folder=folder)

    def __len__(self) -> int:
        return self.brains

    def __getitem__(self, number: int) -> Float[Tensor, "x y z"]:
        return self.chunks.rows([number])["maps"][0]

    def _make(self, first: int, count: int) -> dict[str, Tensor]:
        split, seed = self.key
        maps = [sample_brain(split=split, seed=seed, index=first + i, spacing=self.spacing).susceptibility for i in range(count)]
        return {"maps": torch.stack(maps).half()}


class Patches(WindowBatches):
    """Batches of windows of a split's brains."""

    def __init__(self, *, split: str, seed: int, device: str, brains: int, folder: Path, training: QSMDiffTraining | None = None) -> None:
        given = training or QSMDiffTraining()
        volumes = Brains(split=split, seed=seed, brains=brains, spacing=given.spacing, folder=folder)
        self.chunks = volumes.chunks
        windows = VolumeWindows(volumes, given.window, stream=(SPLITS[split], seed))
        super().__init__(windows, scale=given.scale, low_noise=given.low_noise, device=device)


class QSMRecipe:
    """`QSMDiffTraining` on the brains of the world's splits."""

    name = "toy-qsm"
    training = QSMDiffTraining()
    settings: Settings = replace(training.settings(), cuda_batch_size=64)
    gates = (
        Gate("error_over_tkd", 0.70, at_most=True),
        Gate("error_over_l2", 0.70, at_most=True),
        Gate("error_over_tv", 1.0, at_most=True),
        Gate("cone_energy_over_tkd", 0.5, at_most=True),
        Gate("roi_slope", 0.9),
        Gate("roi_slope", 1.1, at_most=True),
    )
    """qsmdiff's claims on brains with 0.006 ppm of noise."""
    card = Card(
        about=(
            "Susceptibility of the brain in ppm, windows of 32 voxels of 2 mm, unconditional: MONAI's `DiffusionModelUNet` on blocks of "
            "2 voxels (`calotype.backbones.volume_network`), v-prediction on DDPM's linear schedule, 0.05 ppm as the unit. 200 synthetic "
            "brains (warped template, nuclei, vessels, lesions; no patient's data). For research and for comparing methods; it is no "
            "medical device, and what it adds to a map is no finding. The figures are those of `qsmdiff` with it, against tuned TKD, L2 "
            "and total variation."
        ),
        data="synthetic brains of 2 mm",
        made_from=(
            "maps computed from the ICBM 152 template of 2009 (McConnell Brain Imaging Centre, McGill University), which isn't part of it; "
            "nilearn, which ships it, gives its licence as unknown, and its makers' notice allows use and distribution (unverified)"
        ),
    )
    train_brains = 200
    tune_brains = 16

    def build(self, *, seed: int, start: Path | None, checkpoints: Path) -> TraineeQSM:
        """The network, from an exported folder or from random weights."""
        return self.training.build(seed=seed, start=start)

    def source(
        self, trainee: nn.Module, *, split: str, seed: int, folder: Path, checkpoints: Path, start: Path | None, device: str
    ) -> Patches:
        """Windows of a split, the brains kept under the run's data folder."""
        brains = self.train_brains if split == "train" else self.tune_brains
        kept = folder / f"brains-2mm-{split}-{seed}"
        return Patches(split=split, seed=seed, device=device, brains=brains, folder=kept, training=self.training)

    def sample_grid(self, trainee: TraineeQSM, source: Patches, path: Path) -> list[Path]:
        """See `QSMDiffTraining.draw`."""
        return self.training.draw(trainee, source, path)

    def export(self, trainee: TraineeQSM, source: Patches, folder: Path) -> None:
        """See `calotype.backbones.volume_network`; weights in 8 bits."""
        self.training.write(trainee, folder, rounded=True)

    def validate(self, folder: Path, *, seed: int, count: int | None, device: str, events: Events) -> dict[str, float]:
        """The claims of the method that the prior is for, at 0.006 ppm of noise (`calotype.evaluation.qsmdiff.prior_figures`)."""

        return prior_figures(folder, seed=seed, count=count, device=device, events=events)
