"""The recipe of `toy-qsm`: an unconditional prior of susceptibility maps, on patches of synthetic brains at 2 mm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from calotype.backbones.folder import open_checkpoint
from calotype.backbones.volume_network import VolumeNetwork, load_part, monai_unet, save_folder
from calotype.core.events import Events
from calotype.core.schedule import VPSchedule
from calotype.embedded import networks
from calotype.embedded.card import Card, Gate
from calotype.evaluation.qsmdiff import gates
from calotype.train.latents import Chunks
from calotype.train.recipe import Settings
from calotype.train.rng import BatchRng
from calotype.world.brains.anatomy import sample_brain
from calotype.world.scenes.sampling import SPLITS

SPACING = (2.0, 2.0, 2.0)
WINDOW = 32
PATCH_SIZE = 2
SCALE = 0.05
"""ppm that are 1 for the network: about the standard deviation inside a brain."""
LIMIT = 0.4
"""ppm that the prior's maps stay within; vessels reach 0.31."""
SCHEDULE: dict[str, Any] = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "num_train_timesteps": 1000}
"""The paper's code: DDPM's linear schedule."""
LOW_NOISE = 1.5
"""Timesteps are drawn as 1000 u^1.5: the upper half of the schedule is above the data's own size, where there is little to learn."""


class TraineeQSM(nn.Module):
    """The network; the loss is the squared error of v."""

    def __init__(self, network: VolumeNetwork) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("alphas", VPSchedule.of(**SCHEDULE).alphas_cumprod.float(), persistent=False)

    def forward(self, batch: Mapping[str, Tensor]) -> Float[Tensor, " batch"]:
        """`maps` and `noise` [B, 1, X, Y, Z], `maps` in units of `SCALE`; `timesteps` [B] int64."""
        alpha = self.alphas[batch["timesteps"]].view(-1, 1, 1, 1, 1)
        maps, noise = batch["maps"], batch["noise"]
        noisy = alpha.sqrt() * maps + (1.0 - alpha).sqrt() * noise
        target = alpha.sqrt() * noise - (1.0 - alpha).sqrt() * maps
        return (self.network(noisy, batch["timesteps"].float()).float() - target).square().flatten(1).mean(1)


class Patches:
    """Windows cut out of brains at random places, mirrored left to right half of the time."""

    count = 1_000_000

    def __init__(self, *, split: str, seed: int, device: str, brains: int, folder: Path) -> None:
        self.split, self.seed, self.device, self.brains = split, seed, device, brains
        self.chunks = Chunks(self._make, count=brains, chunk=1, folder=folder)

    def _make(self, first: int, count: int) -> dict[str, Tensor]:
        maps = [sample_brain(split=self.split, seed=self.seed, index=first + i, spacing=SPACING).susceptibility for i in range(count)]
        return {"maps": torch.stack(maps).half()}

    def maps(self, rows: Sequence[int]) -> Float[Tensor, "rows 1 window window window"]:
        """The patches of these numbers, in units of `SCALE`."""
        return torch.stack([self._cut(row) for row in rows])[:, None] / SCALE

    def _cut(self, row: int) -> Float[Tensor, "window window window"]:
        """Patch number `row`; its middle lies in the brain."""
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([SPLITS[self.split], self.seed, row, 81])))
        number, mirrored = generator.random(2)
        brain = self.chunks.rows([int(number * self.brains)])["maps"][0]
        room = np.array(brain.shape) - WINDOW
        while True:
            corner = (generator.random(3) * (room + 1)).astype(int)
            if brain[tuple(corner + WINDOW // 2)] != 0:
                break
        patch = brain[tuple(slice(first, first + WINDOW) for first in corner)].float()
        return patch.flip(0) if mirrored < 0.5 else patch

    def batch(self, rows: Sequence[int], rng: BatchRng, *, augment: bool) -> dict[str, Tensor]:
        maps = self.maps(rows)
        timesteps = (rng.stratified() ** LOW_NOISE * SCHEDULE["num_train_timesteps"]).long()
        made = {"maps": maps, "noise": rng.normal(maps.shape[1:]), "timesteps": timesteps}
        return {name: tensor.to(self.device) for name, tensor in made.items()}


class QSMRecipe:
    """Patches of 32 voxels of 2 mm; no condition, no place."""

    name = "toy-qsm"
    settings = Settings(
        batch_size=16, cuda_batch_size=64, optimizer="muon", learning_rate=1e-3, warm_learning_rate=5e-4, ema_decay=0.998,
        held_out=512, held_out_often=64, held_out_seed=7005,
    )  # fmt: skip
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
    unet: Mapping[str, Any] = {}
    """Changes to the network's config (tests make it narrower)."""

    def build(self, *, seed: int, start: Path | None, checkpoints: Path) -> TraineeQSM:
        """The network, from an exported folder or from random weights."""
        if start is not None:
            return TraineeQSM(load_part(open_checkpoint(start).parts["unet"], PATCH_SIZE))
        config = networks.volume_unet(PATCH_SIZE, **self.unet)
        return TraineeQSM(VolumeNetwork(networks.seeded(seed, lambda: monai_unet(config)), PATCH_SIZE))

    def source(
        self, trainee: nn.Module, *, split: str, seed: int, folder: Path, checkpoints: Path, start: Path | None, device: str
    ) -> Patches:
        """Patches of a split, the brains kept under the run's data folder."""
        brains = self.train_brains if split == "train" else self.tune_brains
        return Patches(split=split, seed=seed, device=device, brains=brains, folder=folder / f"brains-2mm-{split}-{seed}")

    def sample_grid(self, trainee: TraineeQSM, source: Patches, path: Path) -> list[Path]:
        """Middle slices: true patches, what the network makes of them at two noise levels, and samples from noise."""
        from calotype.train.sample_grids import save_grid

        maps = source.maps(range(8)).to(trainee.alphas.device)
        noise = torch.randn(maps.shape, generator=torch.Generator().manual_seed(0)).to(maps.device)
        rows = [maps]
        for sigma in (0.5, 2.0):
            rows += [maps + sigma * noise, denoise(trainee, maps + sigma * noise, sigma)]
        rows.append(sample_patches(trainee, noise))
        slices = torch.cat(rows)[:, :, :, :, WINDOW // 2].movedim(-1, -2).flip(-2) * SCALE
        return [save_grid(((slices + 0.1) / 0.3).expand(-1, 3, -1, -1), 8, path, scale=3)]

    def export(self, trainee: TraineeQSM, source: Patches, folder: Path) -> None:
        """See `calotype.backbones.volume_network`; weights in 8 bits."""
        from diffusers import DDIMScheduler

        scheduler = DDIMScheduler(
            **SCHEDULE, prediction_type="v_prediction", clip_sample=False, timestep_spacing="leading", set_alpha_to_one=True
        )
        facts = {"window": [WINDOW] * 3, "spacing": list(SPACING), "scale": SCALE, "limit": LIMIT, "unit": "ppm"}
        config = networks.volume_unet(PATCH_SIZE, **self.unet)
        save_folder(folder, trainee.network, config, scheduler=scheduler, facts=facts, rounded=True)

    def validate(self, folder: Path, *, seed: int, count: int | None, device: str, events: Events) -> dict[str, float]:
        """The claims of the method that the prior is for, at 0.006 ppm of noise (`calotype.evaluation.qsmdiff.gates`)."""
        return gates(folder, seed=seed, count=count, device=device, events=events)


def denoise(trainee: TraineeQSM, x: Float[Tensor, "batch 1 x y z"], sigma: float) -> Float[Tensor, "batch 1 x y z"]:
    """The network's estimate of the clean patches in x = x0 + sigma n."""
    schedule = VPSchedule.of(**SCHEDULE)
    time = torch.full((len(x),), schedule.t(sigma), device=x.device)
    with torch.no_grad():
        output = trainee.network(x / (1.0 + sigma**2) ** 0.5, time).float()
    return x / (1.0 + sigma**2) - output * sigma / (1.0 + sigma**2) ** 0.5


def sample_patches(trainee: TraineeQSM, noise: Float[Tensor, "batch 1 x y z"], steps: int = 20) -> Float[Tensor, "batch 1 x y z"]:
    """Patches from noise, deterministic."""
    from calotype.core.samplers import sample
    from calotype.core.schedule import karras_sigmas

    sigmas = karras_sigmas(steps, 0.02, 80.0)
    return sample(lambda x, sigma: denoise(trainee, x, sigma), noise * float(sigmas[0]), sigmas)
