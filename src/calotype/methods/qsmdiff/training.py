"""The training of QSMDiff's prior: an unconditional diffusion model of windows of susceptibility maps.

A window of `window` voxels of `spacing` mm is cut out of a map at random, its middle in the brain, and mirrored half of the time. The
network is MONAI's UNet on blocks of `patch_size` voxels, and learns v at timesteps 1000 u^`low_noise`. The paper's code learns epsilon on
windows of 48 voxels with an ADM network of 64 to 512 channels (`paper`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calotype.backbones.folder import open_checkpoint
from calotype.backbones.headers import read_json
from calotype.backbones.volume_network import VolumeNetwork, load_part, monai_unet, save_folder
from calotype.core.denoiser import Preconditioner, Rates
from calotype.core.events import SILENT, Events
from calotype.core.schedule import VPSchedule
from calotype.data.volume_folder import FolderWindows, VolumeFolder, VolumeWindows
from calotype.data.volumes import masked_values, volume_mask
from calotype.errors import InputError
from calotype.imaging.types import Volume
from calotype.methods.qsmdiff.grid import WorkingGrid
from calotype.methods.qsmdiff.units import field_in_ppm
from calotype.train.recipe import Settings
from calotype.train.rng import BatchRng
from calotype.train.training import Training

SCHEDULE: dict[str, Any] = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "num_train_timesteps": 1000}
"""The paper's code: DDPM's linear schedule."""
SAME = 0.02
"""Voxels whose sides differ by less than this share from the training's are taken as they are."""
LEAST_CELLS = 3
"""Along each side of the coarsest level. On two cells, some processors' gradients of 3-D convolutions in bfloat16 aren't numbers."""
HEAD = 32
"""Channels of a head of the attention at the coarsest level."""
LEAST_OUTSIDE = 0.02
"""A map without a mask has at least this share of voxels that are 0, or counts as a whole."""


class TraineeQSM(nn.Module):
    """The network and its loss, the squared error of v or of epsilon."""

    alphas: Tensor

    def __init__(self, network: VolumeNetwork, prediction: Literal["v_prediction", "epsilon"] = "v_prediction") -> None:
        super().__init__()
        self.network = network
        schedule = VPSchedule.of(**SCHEDULE)
        self.preconditioner = Preconditioner(prediction, schedule.t)
        self.register_buffer("alphas", schedule.alphas_cumprod.float(), persistent=False)

    def forward(self, batch: Mapping[str, Tensor]) -> Float[Tensor, " batch"]:
        """`maps` and `noise` [B, 1, X, Y, Z], `maps` in units of the scale; `timesteps` [B] int64."""
        alpha = self.alphas[batch["timesteps"]].view(-1, 1, 1, 1, 1)
        network_input, target = self.preconditioner.example(batch["maps"], batch["noise"], Rates.of_alpha(alpha))
        output: Tensor = self.network(network_input, batch["timesteps"].float())
        return (output.float() - target).square().flatten(1).mean(1)


class WindowBatches:
    """Batches of a data set's windows in units of the scale, with noise and a timestep for each."""

    def __init__(self, windows: VolumeWindows, *, scale: float, low_noise: float, device: str) -> None:
        self.windows, self.scale, self.low_noise, self.device = windows, scale, low_noise, device
        self.count = len(windows)

    def maps(self, rows: Sequence[int]) -> Float[Tensor, "rows 1 x y z"]:
        """The windows of these numbers."""
        return self.windows.rows(rows)["maps"] / self.scale

    def batch(self, rows: Sequence[int], rng: BatchRng, *, augment: bool) -> dict[str, Tensor]:
        """See `calotype.train.recipe.Source`; nothing is left out in training."""
        maps = self.maps(rows)
        timesteps = (rng.stratified() ** self.low_noise * SCHEDULE["num_train_timesteps"]).long()
        made = {"maps": maps, "noise": rng.normal(maps.shape[1:]), "timesteps": timesteps}
        return {name: tensor.to(self.device) for name, tensor in made.items()}


@dataclass(frozen=True, kw_only=True)
class QSMDiffTraining(Training):
    """A prior of susceptibility maps for QSMDiff, from a folder of maps as NIfTI.

    Maps may have any voxels and orientation; a mask of each, called like it with _mask at the end, says where the brain is. Without one,
    the brain is where the map isn't 0. Two subjects at least are needed, since one is held out.

    Example:
        >>> QSMDiffTraining.paper().window, QSMDiffTraining().spacing
        ((48, 48, 48), (2.0, 2.0, 2.0))
    """

    slug: ClassVar[str] = "qsmdiff"
    presets: ClassVar[tuple[str, ...]] = ("small", "paper")

    spacing: tuple[float, float, float] = (2.0, 2.0, 2.0)
    """Voxel size in mm that the prior will know, to the right, to the front and up; maps of others are resampled."""
    window: tuple[int, int, int] = (32, 32, 32)
    """Sides of a window in voxels."""
    map_unit: Literal["ppm", "ppb", "fraction"] | None = None
    """Unit of the maps; by default what their headers say, else ppm if their size fits."""
    scale: float = 0.05
    """ppm that are 1 for the network: about the standard deviation inside a brain."""
    limit: float = 0.4
    """ppm that the prior's maps stay within, either way."""
    patch_size: int = 2
    """Voxels along each side of the blocks that the network sees as one cell."""
    channels: tuple[int, ...] = (48, 64, 64)
    """Of the network's levels, each with half the resolution of the one before."""
    num_res_blocks: int = 1
    """Of each level."""
    norm_num_groups: int = 8
    """Of the normalisation; it divides all channels."""
    prediction: Literal["v_prediction", "epsilon"] = "v_prediction"
    """What the network learns."""
    low_noise: float = 1.5
    """Timesteps are drawn as 1000 u^this: above 1, low noise is seen more often."""
    optimizer: Literal["adamw", "muon"] = "muon"
    """`muon` orthogonalises the updates of the hidden matrices; see `calotype.train.muon`."""
    held_out_windows: int = 512
    """Windows that the result is measured on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.spacing) != 3 or not all(0.2 <= side <= 8 for side in self.spacing):
            raise InputError(f"spacing is {self.spacing}; it must be three sides of 0.2 to 8 mm")
        if self.patch_size < 1 or not self.channels or self.num_res_blocks < 1 or self.held_out_windows < 1:
            raise InputError("patch_size, num_res_blocks, held_out_windows and the number of channels must be 1 or more")
        stride = self.patch_size * 2 ** (len(self.channels) - 1)
        if len(self.window) != 3 or not all(side >= LEAST_CELLS * stride and side % stride == 0 for side in self.window):
            raise InputError(
                f"window is {self.window}; its sides must be {LEAST_CELLS * stride} or more and multiples of {stride}, which the network's "
                "levels divide them by"
            )
        if self.norm_num_groups < 1 or any(width < 1 or width % self.norm_num_groups for width in self.channels):
            raise InputError(f"channels are {self.channels}; norm_num_groups ({self.norm_num_groups}) must divide each")
        if self.channels[-1] > HEAD and self.channels[-1] % HEAD:
            raise InputError(f"channels are {self.channels}; the last must be {HEAD} or less, or a multiple of it")
        if not 0 < self.scale <= self.limit or not 0.2 <= self.low_noise <= 5:
            raise InputError(f"scale is {self.scale} and limit {self.limit} (0 < scale <= limit), low_noise {self.low_noise} (0.2 to 5)")

    @classmethod
    def small(cls) -> Self:
        """toy-qsm's numbers: 2 mm, a network of 0.9 million weights, for a CPU."""
        return cls()

    @classmethod
    def paper(cls) -> Self:
        """The official code's numbers as far as they are known: 1 mm, windows of 48 voxels, 64 to 512 channels; for a GPU."""
        return cls(
            spacing=(1.0, 1.0, 1.0), window=(48, 48, 48), scale=0.15, patch_size=1, channels=(64, 128, 256, 512), num_res_blocks=3,
            norm_num_groups=32, prediction="epsilon", low_noise=1.0, optimizer="adamw", batch_size=6, learning_rate=5e-5,
        )  # fmt: skip

    def settings(self) -> Settings:
        """The loop's numbers; the held-out windows are the first ones of the held-out maps."""
        numbers = super().settings()
        often = min(64, self.held_out_windows)
        return replace(numbers, optimizer=self.optimizer, held_out=self.held_out_windows, held_out_often=often, held_out_seed=7005)

    def data_set(self, data: Path, kept: Path, events: Events = SILENT) -> FolderWindows:
        """Windows of the maps of a folder."""
        key = repr((self.spacing, self.window, self.map_unit, self.limit))
        return FolderWindows(VolumeFolder(data, self._prepared, kept=kept, key=key), self.window)

    def check(self, data: FolderWindows, events: Events = SILENT) -> None:
        """Read every map."""
        data.volumes.check(events)
        maps, subjects = len(data.volumes), len(data.volumes.groups)
        events.note(f"{maps} maps of {subjects} subjects; about {max(1, round(self.held_out_share * subjects))} of these are held out")

    def check_start(self, start: Path, data: VolumeWindows | None = None, events: Events = SILENT) -> None:
        """Refuse another kind of model, another network and another prediction; tell another scale or voxel size."""
        checkpoint = open_checkpoint(start)
        if checkpoint.role != "VolumePrior":
            raise InputError(f"{start.name} is of the role {checkpoint.role}; a prior begins with a VolumePrior, such as toy-qsm")
        found = read_json(checkpoint.parts["unet"].folder / "config.json")
        found["prediction"] = read_json(start / "scheduler" / "scheduler_config.json").get("prediction_type", "epsilon")
        for name, value in {**self.network(), "prediction": self.prediction}.items():
            if found.get(name) != value:
                raise InputError(f"the checkpoint to begin with has {name} {found.get(name)}, and {value} was asked for")
        for name, value in (("scale", self.scale), ("spacing", list(self.spacing))):
            if checkpoint.index.get(name) != value:
                events.note(f"the checkpoint to begin with knows {name} {checkpoint.index.get(name)}, and learns {value} from here on")

    def build(self, data: VolumeWindows | None = None, *, seed: int, start: Path | None = None) -> TraineeQSM:
        """The network, from an exported folder or from random weights."""
        if start is not None:
            return TraineeQSM(load_part(open_checkpoint(start).parts["unet"], self.patch_size), self.prediction)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return TraineeQSM(VolumeNetwork(monai_unet(self.network()), self.patch_size), self.prediction)

    def network(self) -> dict[str, Any]:
        """The arguments of MONAI's `DiffusionModelUNet`."""
        return {
            "spatial_dims": 3,
            "in_channels": self.patch_size**3,
            "out_channels": self.patch_size**3,
            "channels": list(self.channels),
            "attention_levels": [False] * len(self.channels),
            "num_res_blocks": self.num_res_blocks,
            "norm_num_groups": self.norm_num_groups,
            "num_head_channels": min(HEAD, self.channels[-1]),
        }

    def source(self, trainee: TraineeQSM, data: VolumeWindows, device: str) -> WindowBatches:
        """Batches of the windows."""
        return WindowBatches(data, scale=self.scale, low_noise=self.low_noise, device=device)

    def draw(self, trainee: TraineeQSM, source: WindowBatches, path: Path) -> list[Path]:
        """Middle slices: true windows, what the network makes of them at two noise levels, and samples from noise."""
        from calotype.train.sample_grids import save_grid

        maps = source.maps(range(8)).to(trainee.alphas.device)
        noise = torch.randn(maps.shape, generator=torch.Generator().manual_seed(0)).to(maps.device)
        rows = [maps]
        for sigma in (0.5, 2.0):
            rows += [maps + sigma * noise, denoise(trainee, maps + sigma * noise, sigma)]
        rows.append(sample_patches(trainee, noise))
        slices = torch.cat(rows)[:, :, :, :, maps.shape[-1] // 2].movedim(-1, -2).flip(-2) * source.scale
        return [save_grid(((slices + 0.1) / 0.3).expand(-1, 3, -1, -1), 8, path, scale=3)]

    def write(self, trainee: TraineeQSM, folder: Path, *, rounded: bool = False) -> None:
        """See `calotype.backbones.volume_network`; `rounded` keeps 8 bits a weight."""
        from diffusers import DDIMScheduler

        scheduler = DDIMScheduler(
            **SCHEDULE, prediction_type=self.prediction, clip_sample=False, timestep_spacing="leading", set_alpha_to_one=True
        )
        pipeline_config = {
            "window": list(self.window),
            "spacing": list(self.spacing),
            "scale": self.scale,
            "limit": self.limit,
            "unit": "ppm",
        }
        save_folder(folder, trainee.network, self.network(), scheduler=scheduler, pipeline_config=pipeline_config, rounded=rounded)

    def _prepared(self, volume: Volume, mask: Volume | None, events: Events) -> Float[Tensor, "x y z"]:
        """A map in ppm, upright, at the training's voxels, 0 outside the brain, within the limit, with an edge of a quarter window."""
        known = torch.isfinite(volume.values) & (volume.values != 0)
        inside = known if mask is None else volume_mask(mask, volume, reference_name="map", events=events)
        if mask is None and float(known.float().mean()) > 1 - LEAST_OUTSIDE:
            events.note("no mask lies beside it and hardly a voxel is 0: the whole volume counts as the brain")
        values = masked_values(volume, inside, name="map", events=events)
        if not bool(values.values[inside].any()):
            raise InputError("it is 0 everywhere in the brain; give maps of susceptibility")
        values = field_in_ppm(values, inside, unit=self.map_unit, quantity="map", name="map", events=events)
        grid = WorkingGrid(inside, values.affine, spacing=self.spacing, least=self.window, same=SAME)
        if grid.resampled:
            events.note(f"resampled to voxels of {' x '.join(f'{side:g}' for side in self.spacing)} mm")
        entered, _ = grid.enter(values.values, inside)
        padding = [side // 4 for side in reversed(self.window) for _ in range(2)]
        return torch.nn.functional.pad(entered.clamp(-self.limit, self.limit), padding)


def denoise(trainee: TraineeQSM, x: Float[Tensor, "batch 1 x y z"], sigma: float) -> Float[Tensor, "batch 1 x y z"]:
    """The network's estimate of the clean patches in x = x0 + sigma n."""
    preconditioner = trainee.preconditioner
    time = torch.full((len(x),), preconditioner.timestep(sigma), device=x.device)
    with torch.no_grad():
        output = trainee.network(preconditioner.scale_input(x, sigma), time)
    return preconditioner.estimate(x, output, sigma)


def sample_patches(trainee: TraineeQSM, noise: Float[Tensor, "batch 1 x y z"], steps: int = 20) -> Float[Tensor, "batch 1 x y z"]:
    """Patches from noise, deterministic."""
    from calotype.core.samplers import sample
    from calotype.core.schedule import karras_sigmas

    sigmas = karras_sigmas(steps, 0.02, 80.0)
    return sample(lambda x, sigma: denoise(trainee, x, sigma), noise * float(sigmas[0]), sigmas)
