"""The training of a diffusion segmenter, and of the three other networks that the paper compares it with.

    diffusion      (x_t, picture, t) -> the mask, epsilon or v             E2, L_CDM (with epsilon)
    feed-forward   picture -> mask, Dice and cross-entropy                  E1
    mask-alone     (x_t, t) -> the mask, without the picture                E3, L'_DM
    image-alone    (y_t, t) -> the noise of the picture                     E4, L_DM

All four are one architecture; what isn't there has no channels. Timesteps are drawn evenly. MONAI's networks can be trained, too, without
diffusion (`calotype.train.segmenter_training`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from calotype.backbones.diffusion_segmenter import (
    PIPELINE,
    DiffusionFacts,
    DiffusionSegmenter,
    MaskRange,
    Objective,
    diffusion_facts,
    noise_schedule,
    save_diffusion_segmenter,
    state_channels,
)
from calotype.backbones.diffusion_segmenter_network import Architecture, DiffusionSegmentationNetwork
from calotype.backbones.folder import INT8, open_checkpoint
from calotype.backbones.headers import read_json
from calotype.backbones.loading import load_rounded_network
from calotype.backbones.model_sampling import ModelSampling
from calotype.backbones.segmenter_network import PictureFacts
from calotype.backbones.source import CheckpointSource
from calotype.core import fields
from calotype.core.denoiser import Preconditioner, Prediction, Rates
from calotype.core.events import SILENT, Events
from calotype.errors import InputError
from calotype.train.rng import BatchRng
from calotype.train.segmentation_batches import SegmentationLoss
from calotype.train.segmenter_training import SegmentationBatches, SegmentationRows, SegmenterTraining, coloured, pictured

HIGHWAY_WEIGHT = 10.0
"""Of the squared error of medsegdiff's second mask (official code)."""
LEAST_CELLS = 3
"""Along each side of a volume's coarsest level. On two, some processors' gradients of 3-D convolutions in bfloat16 aren't numbers."""
SHOWN = 8
"""Held-out windows on a sheet."""
AnyArchitecture = Literal[
    "ensemdiff", "segdiff", "medsegdiff", "dermosegdiff", "unet", "attention-unet", "segresnet", "basic-unet", "unetr"
]  # fmt: skip
"""`Architecture`, and MONAI's networks of `calotype.backbones.segmenter_network`."""
PREDICTIONS: Mapping[str, Prediction] = {"sample": "sample", "epsilon": "epsilon", "v": "v_prediction"}


class TraineeDiffusionSegmenter(nn.Module):
    """The network and its loss."""

    alphas: Tensor

    def __init__(
        self, network: DiffusionSegmentationNetwork, facts: PictureFacts, diffusion: DiffusionFacts, *, prediction: Prediction = "sample",
        num_train_timesteps: int = 1000, loss: SegmentationLoss | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.network, self.facts, self.diffusion = network, facts, diffusion
        schedule = noise_schedule(num_train_timesteps, diffusion.input_scaling)
        self.preconditioner = Preconditioner(prediction, schedule.t)
        self.criterion = (loss or SegmentationLoss()) if diffusion.objective == "feed-forward" else None
        self.register_buffer("alphas", schedule.alphas_cumprod.float(), persistent=False)

    def forward(self, batch: Mapping[str, Tensor]) -> Float[Tensor, " batch"]:
        """`image` [B, C, *sides] in [0, 1], `mask` [B, *sides] int64, `noise` [B, state channels, *sides], `time` [B] in [0, 1)."""
        images, masks = 2 * batch["image"] - 1, batch["mask"]
        if self.criterion is not None:
            found: Tensor = self.criterion(self.network(images, torch.zeros(len(images), device=images.device)), masks)
            return found
        guided = self.network.config.image_channels > 0
        clean = images if self.diffusion.objective == "image-alone" else self.diffusion.encode(masks, self.facts.num_classes)
        timesteps = (batch["time"] * len(self.alphas)).long()
        alpha = self.alphas[timesteps].view(-1, *[1] * (clean.ndim - 1))
        seen, target = self.preconditioner.example(clean, batch["noise"][:, : clean.shape[1]], Rates.of_alpha(alpha))
        output, highway = self.network.with_highway(seen, timesteps.float(), images if guided else None)
        loss = (output.float() - target).square().flatten(1).mean(1)
        if highway is not None:
            loss = loss + HIGHWAY_WEIGHT * functional.mse_loss(highway.float(), clean, reduction="none").flatten(1).mean(1)
        return loss

    def model(self, name: str = "trainee") -> DiffusionSegmenter:
        """What its checkpoint will be; the network is shared."""
        scheduler = self.scheduler()
        source = CheckpointSource(name=name, folder=None, revision=None, licence="")
        sampling = ModelSampling(dict(scheduler.config), type(scheduler).__name__)
        return DiffusionSegmenter(
            source, {"network": self.network.eval()}, device=self.alphas.device, facts=self.facts, diffusion=self.diffusion,
            sampling=sampling,
        )  # fmt: skip

    def scheduler(self) -> Any:
        """The diffusers scheduler that its checkpoint is sampled with; an input scaling stands in the betas."""
        from diffusers import DDIMScheduler

        steps, scaling = len(self.alphas), self.diffusion.input_scaling
        betas: dict[str, Any] = {"beta_schedule": "linear", "beta_start": 0.1 / steps, "beta_end": 20.0 / steps}
        if scaling != 1:
            betas = {"trained_betas": noise_schedule(steps, scaling).betas.tolist()}
        return DDIMScheduler(
            **betas, num_train_timesteps=steps, prediction_type=self.preconditioner.prediction, clip_sample=False,
            timestep_spacing="trailing",
        )  # fmt: skip

    def save(self, folder: Path, *, rounded: bool = False) -> None:
        """Write its checkpoint; `rounded` keeps 8 bits a weight."""
        save_diffusion_segmenter(folder, self.network, self.facts, self.diffusion, scheduler=self.scheduler(), rounded=rounded)


class DiffusionBatches(SegmentationBatches):
    """Batches of windows with noise and a place in time for each."""

    def __init__(self, trainee: TraineeDiffusionSegmenter, *given: Any) -> None:
        super().__init__(*given)
        self.state_channels = int(trainee.network.config.state_channels)

    def batch(self, rows: Sequence[int], rng: BatchRng, *, augment: bool) -> dict[str, Tensor]:
        """See `calotype.train.recipe.Source`."""
        made = super().batch(rows, rng, augment=augment)
        noise = rng.normal((self.state_channels, *made["mask"].shape[1:]))
        return {**made, "noise": noise.to(self.device), "time": rng.stratified().to(self.device)}


@dataclass(frozen=True, kw_only=True)
class DiffusionSegmentationTraining(SegmenterTraining):
    """A segmenter from a folder of pictures and masks: by diffusion, or the same network without.

    The folder has `images/` and `masks/` with the same names, and optionally `table.csv`; patients are held out as a whole.

    Example:
        >>> DiffusionSegmentationTraining().prediction, DiffusionSegmentationTraining.paper().mask_range
        ('sample', 'zero-one')
    """

    slug: ClassVar[str] = "diffusion-segmentation"
    presets: ClassVar[tuple[str, ...]] = ("small", "paper")

    architecture: AnyArchitecture = "ensemdiff"  # type: ignore[assignment]
    """How the picture enters the diffusion network; the others are MONAI's networks, for the objective feed-forward."""
    objective: Objective = "diffusion"
    """`diffusion`, or `feed-forward`: the same network from picture to mask at once. `mask-alone` and `image-alone` are for the study."""
    prediction: Literal["sample", "epsilon", "v"] = "sample"
    """What the network learns: the mask, the noise (the paper), or v. The noise's loss hardly counts where the picture is needed."""
    channels: tuple[int, ...] = (32, 64, 64)
    """Of the network's levels, each with half the resolution of the one before."""
    num_res_blocks: int = 1
    """Of each level."""
    norm_num_groups: int = 8
    """Of the normalisation; it divides all channels."""
    attention: bool = False
    """Of the cells with each other at the coarsest level."""
    patch_size: int = 2
    """Pixels along each side of the blocks that the network sees as one cell; 1 costs about three times as much."""
    num_train_timesteps: int = 1000
    """Of the noise schedule, which is DDPM's linear one, stretched."""
    input_scaling: float = 1.0
    """Of the mask in the schedule: below 1 noise hides it earlier, for big objects; above 1 later, for small ones. `calotype eval
    diffusion-segmentation --data DIR` advises one."""
    mask_range: MaskRange = "plus-minus-one"
    """Values of a mask in the diffusion; 0 and 1 are hidden by half as much noise."""

    def __post_init__(self) -> None:
        fields.one_of(self, architecture=get_args(AnyArchitecture), objective=get_args(Objective), prediction=tuple(PREDICTIONS))
        if not self._ours and self.objective != "feed-forward":
            raise InputError(
                f"architecture {self.architecture} is one of MONAI's, which are trained without diffusion; add --objective feed-forward"
            )
        fields.at_least(self, 1, "num_res_blocks", "norm_num_groups", "patch_size")
        fields.at_least(self, 10, "num_train_timesteps")
        if any(width < 1 or width % self.norm_num_groups for width in self.channels):
            raise InputError(f"channels are {self.channels}; norm_num_groups ({self.norm_num_groups}) must divide each")
        DiffusionFacts(objective=self.objective, mask_range=self.mask_range, input_scaling=self.input_scaling)
        super().__post_init__()

    @classmethod
    def small(cls) -> Self:
        """For a CPU: 0.7 million weights on blocks of 2 pixels."""
        return cls()

    @classmethod
    def paper(cls) -> Self:
        """EnsemDiff's numbers as far as they are known: 256 px, six levels of 128 to 512 channels, noise, masks of 0 and 1; for a GPU."""
        return cls(
            window=(256, 256), channels=(128, 128, 256, 256, 512, 512), num_res_blocks=2, norm_num_groups=32, attention=True, patch_size=1,
            prediction="epsilon", mask_range="zero-one", batch_size=10, learning_rate=1e-4, ema_decay=0.9999,
        )  # fmt: skip

    @property
    def _ours(self) -> bool:
        return self.architecture in get_args(Architecture)

    def network(self, channels: int, classes: int) -> dict[str, Any]:
        """The network's config: of `DiffusionSegmentationNetwork`, or of one of MONAI's."""
        if not self._ours:
            return super().network(channels, classes)
        state, image, out = state_channels(self.objective, channels, classes)
        stride = self.patch_size << (len(self.channels) - 1)
        least = stride * (LEAST_CELLS if len(self.window) == 3 else 1)
        if len(self.window) not in (2, 3) or any(side < least or side % stride for side in self.window):
            raise InputError(
                f"window is {self.window}; it must have two or three sides, multiples of {stride}, which the levels divide them by"
                f"{f', and {least} or more' if least > stride else ''}"
            )
        return {
            "architecture": self.architecture, "spatial_dims": len(self.window), "state_channels": state, "image_channels": image,
            "out_channels": out, "window": list(self.window), "channels": list(self.channels), "num_res_blocks": self.num_res_blocks,
            "norm_num_groups": self.norm_num_groups, "attention": self.attention, "patch_size": self.patch_size,
        }  # fmt: skip

    def check_start(self, start: Path, data: Any, events: Events = SILENT) -> None:
        """Refuse another kind of model, another network, and other channels, classes, intensities or diffusion than asked for."""
        if not self._ours:
            super().check_start(start, data, events)
            return
        checkpoint = open_checkpoint(start)
        if checkpoint.layout.class_name != PIPELINE:
            raise InputError(f"{start.name} is of the role {checkpoint.role} ({checkpoint.layout.class_name}); give a {PIPELINE}")
        facts = self._facts(data)
        scheduler = read_json(start / "scheduler" / "scheduler_config.json")
        known = {
            **read_json(checkpoint.parts["network"].folder / "config.json"), **PictureFacts.of_index(checkpoint.index).entries(),
            **vars(diffusion_facts(checkpoint.index)), "prediction": scheduler.get("prediction_type"),
            "num_train_timesteps": scheduler.get("num_train_timesteps"),
        }  # fmt: skip
        known["channels"] = read_json(checkpoint.parts["network"].folder / "config.json").get("channels")
        wanted = {
            **facts.entries(), **vars(self._diffusion()), **self.network(facts.channels, facts.num_classes),
            "prediction": PREDICTIONS[self.prediction], "num_train_timesteps": self.num_train_timesteps,
        }  # fmt: skip
        for name, value in wanted.items():
            if known.get(name) != value:
                raise InputError(f"the checkpoint to begin with has {name} {known.get(name)}, and {value} is needed here")

    def build(self, data: Any, *, seed: int, start: Path | None = None) -> Any:
        """The network, from an exported folder or from random weights."""
        if not self._ours:
            return super().build(data, seed=seed, start=start)
        facts = self._facts(data)
        if start is not None:
            part = open_checkpoint(start).parts["network"]
            if part.variant == INT8:
                network: Any = load_rounded_network(part)
            else:
                network = DiffusionSegmentationNetwork.from_pretrained(str(part.folder), local_files_only=True)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                network = DiffusionSegmentationNetwork(**self.network(facts.channels, facts.num_classes))
        return TraineeDiffusionSegmenter(
            network.float().requires_grad_(True), facts, self._diffusion(), prediction=PREDICTIONS[self.prediction],
            num_train_timesteps=self.num_train_timesteps, loss=SegmentationLoss(lambda_dice=self.lambda_dice, lambda_ce=self.lambda_ce),
        )  # fmt: skip

    def _diffusion(self) -> DiffusionFacts:
        return DiffusionFacts(objective=self.objective, mask_range=self.mask_range, input_scaling=self.input_scaling)

    def source(self, trainee: Any, data: SegmentationRows, device: str) -> SegmentationBatches:
        """Batches of the windows."""
        if not isinstance(trainee, TraineeDiffusionSegmenter):
            return super().source(trainee, data, device)
        return DiffusionBatches(trainee, data, self.augmentation(), device)

    def draw(self, trainee: Any, source: SegmentationBatches, path: Path) -> list[Path]:
        """Held-out windows, a row each: the picture, the true classes, the mean of samples, their spread, one sample."""
        if not isinstance(trainee, TraineeDiffusionSegmenter):
            return super().draw(trainee, source, path)
        if self.objective in ("mask-alone", "image-alone"):
            return []
        found = source.data.rows([row % source.count for row in range(SHOWN)])
        return draw_masks(trainee.model(), found["image"], found["mask"], path)

    def write(self, trainee: Any, folder: Path, *, rounded: bool = False) -> None:
        """See `calotype.backbones.diffusion_segmenter`; `rounded` keeps 8 bits a weight."""
        if not isinstance(trainee, TraineeDiffusionSegmenter):
            super().write(trainee, folder, rounded=rounded)
            return
        trainee.save(folder, rounded=rounded)


def draw_masks(
    model: DiffusionSegmenter, images: Float[Tensor, "rows channels *sides"], masks: Int[Tensor, rows * sides], path: Path
) -> list[Path]:
    """A sheet, a row for each window: picture, true classes, mean of four samples, their spread (white is the most that is possible), one
    sample; of a volume its middle slice."""
    from calotype.train.sample_grids import save_grid

    samples = model.samples(images, num_samples=4, num_inference_steps=20).cpu()
    spread = (2 * samples.std(1, unbiased=False)).amax(1, keepdim=True)
    truth = functional.one_hot(masks, model.num_classes).movedim(-1, 1).float()
    panels = [pictured(images), coloured(truth), coloured(samples.mean(1)), pictured(spread), coloured(samples[:, 0])]
    return [save_grid(torch.stack(panels, 1).flatten(0, 1), len(panels), path, scale=2)]
