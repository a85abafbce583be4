"""The training of style-extracting diffusion: a latent diffusion model that sees a layout and pictures of a style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calotype.backbones.autoencoder import LatentSpace
from calotype.backbones.folder import open_checkpoint
from calotype.backbones.headers import read_json
from calotype.backbones.layout_style import one_hot, save_parts
from calotype.backbones.loading import load
from calotype.backbones.segmenter_network import PictureFacts
from calotype.backbones.style_network import NULL_STYLE, Aggregation, Injection, StyleConditioner, run_unet
from calotype.core.denoiser import Preconditioner, Prediction, Rates
from calotype.core.events import SILENT, Events
from calotype.core.guidance import ClassifierFreeGuidance
from calotype.core.samplers import sample
from calotype.core.schedule import VPSchedule
from calotype.data.manifest import NAME
from calotype.data.segmentation_folder import SegmentationFolder, UnlabelledFolder
from calotype.errors import InputError
from calotype.methods.style_extracting_diffusion.recolouring import RecolourBy, recoloured
from calotype.methods.style_extracting_diffusion.windows import Plain, StyledWindows, StyleSampler
from calotype.train.recipe import Settings
from calotype.train.rng import BatchRng
from calotype.train.training import Training

SCHEDULE: dict[str, Any] = {"beta_start": 0.0015, "beta_end": 0.0205, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
"""The official code's, named `linear` there."""


class TraineeStyle(nn.Module):
    """UNet, conditioner and the loss; the autoencoder stays as it is."""

    alphas: Tensor

    def __init__(
        self, unet: Any, conditioner: StyleConditioner, latent_space: LatentSpace, *, facts: PictureFacts, prediction: Prediction,
        loss: str, train_encoder: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.unet, self.conditioner, self.latent_space = unet, conditioner, latent_space
        self.facts = facts
        self.loss, self.train_encoder = loss, train_encoder
        schedule = VPSchedule.of(**SCHEDULE)
        self.preconditioner = Preconditioner(prediction, schedule.t)
        self.register_buffer("alphas", schedule.alphas_cumprod.float(), persistent=False)

    def style(self, pictures: Float[Tensor, "batch count 3 height width"]) -> Float[Tensor, "batch tokens width"]:
        """What the UNet reads of style pictures in [-1, 1]; the encoder may be kept as it began."""
        if self.train_encoder:
            made: Tensor = self.conditioner(pictures)
            return made
        with torch.no_grad():
            vectors = self.conditioner.styles(pictures)
        return vectors if self.conditioner.config.injection == "cross" else self.conditioner.aggregate(vectors)[:, None]

    def forward(self, batch: Mapping[str, Tensor]) -> Float[Tensor, " batch"]:
        """`latents`, `noise` [B, C, h, w]; `timesteps` [B]; `layout` [B, classes, H, W]; `styles` [B, K, 3, H, W] in [-1, 1]."""
        alpha = self.alphas[batch["timesteps"]].view(-1, 1, 1, 1)
        seen, target = self.preconditioner.example(batch["latents"], batch["noise"], Rates.of_alpha(alpha))
        sample = torch.cat([seen, self.conditioner.layout_channels(batch["layout"])], 1)
        output = run_unet(self.unet, self.conditioner, sample, batch["timesteps"].float(), self.style(batch["styles"]))
        error = output.float() - target
        return (error.abs() if self.loss == "l1" else error.square()).flatten(1).mean(1)


class StyledBatches:
    """Batches of a data set's samples, with latents, noise, a timestep for each, and no style now and then."""

    def __init__(
        self, data: StyledWindows, latent_space: LatentSpace, *, num_classes: int, style_dropout: float, recolour: float,
        recolour_by: RecolourBy, device: str,
    ) -> None:  # fmt: skip
        self.data, self.num_classes, self.style_dropout, self.device = data, num_classes, style_dropout, device
        self.recolour, self.recolour_by = recolour, recolour_by
        self.latent_space = LatentSpace(latent_space.vae.to(device), torch.device(device))
        self.count = len(data)

    def batch(self, rows: Sequence[int], rng: BatchRng, *, augment: bool) -> dict[str, Tensor]:
        """See `calotype.train.recipe.Source`; for the held-out loss every style is there."""
        found = self.data.rows(rows)
        image, styles = found["image"], found["styles"]
        if augment and self.recolour:
            image, styles = recoloured(image, styles, self.recolour, rng, self.recolour_by)
        styles = styles * 2.0 - 1.0
        if augment:
            styles = torch.where((rng.uniform() < self.style_dropout).view(-1, 1, 1, 1, 1), torch.tensor(NULL_STYLE), styles)
        with torch.no_grad():
            latents = self.latent_space.encode(image)
        timesteps = (rng.stratified() * SCHEDULE["num_train_timesteps"]).long()
        made = {
            "latents": latents, "noise": rng.normal(latents.shape[1:]), "timesteps": timesteps,
            "layout": one_hot(found["layout"], self.num_classes), "styles": styles,
        }  # fmt: skip
        return {name: tensor.to(self.device) for name, tensor in made.items()}


@dataclass(frozen=True, kw_only=True)
class StyleExtractingDiffusionTraining(Training):
    """A generator of pictures from layouts and styles, from a folder of pictures with masks (--data) and one of plain pictures (--styles).

    Plain pictures teach the model styles that the labelled ones don't have: a share of the samples is of them, without a layout. Without
    --styles, or with --plain-share 0, it learns from labelled pictures alone, as in the paper's code.

    Example:
        >>> StyleExtractingDiffusionTraining.paper().window, StyleExtractingDiffusionTraining().style_injection
        ((512, 512), 'temb')
    """

    slug: ClassVar[str] = "style-extracting-diffusion"
    presets: ClassVar[tuple[str, ...]] = ("small", "paper")
    folders: ClassVar[tuple[str, ...]] = ("styles",)

    styles: str = ""
    """Folder of plain pictures."""
    plain_share: float = 0.5
    """Share of the samples that are plain pictures without a layout; 0 learns from labelled ones alone."""
    recolour: float = 1.0
    """Strength of random colours, 0 to 1, the same for a sample and its style pictures, so that every colour occurs with layouts; 0 is the
    paper's code."""
    recolour_by: RecolourBy = "hue"
    """`hue`: any colour, as a segmenter's colour jitter; `stains`: amounts of haematoxylin, eosin and DAB, for H&E and IHC."""
    merge: bool = False
    """Make one class of all but the background (the paper's code)."""
    intensity: tuple[float, ...] = ()
    """Numbers of a file that are black and white, where it has more than 8 bits; by default the range of the labelled files."""
    vae: str = "toy-vae-wide"
    """The autoencoder: an embedded model, a folder of an AutoencoderKL or a VQModel, or a hub id. It isn't trained."""
    window: tuple[int, int] = (64, 64)
    """Height and width of a sample."""
    block_out_channels: tuple[int, ...] = (48, 80, 112)
    """Of the UNet's levels."""
    layers_per_block: int = 1
    """Residual blocks of each level."""
    norm_num_groups: int = 16
    """Of the normalisation; it divides all channels."""
    style_injection: Injection = "temb"
    """`mid`: a residual block in the middle (the paper); `temb`: with the time embedding, which learns sooner; `cross`: attention over
    single pictures."""
    aggregation: Aggregation = "mean"
    """Of several style pictures: mean, max, linear (the official default; a fixed number), set (a transformer)."""
    style_sampler: StyleSampler = "multi"
    """Where a training sample's style comes from: `augmented`, the window itself, displaced; `nearby`, beside it; `multi`, anywhere of the
    patient's."""
    num_styles: int = 2
    """Style pictures of a sample; more than one with `multi` alone."""
    style_width: int = 128
    """Of the style vector."""
    encoder_channels: tuple[int, ...] = (32, 64, 96, 128)
    """Of the style encoder's levels."""
    train_encoder: bool = True
    """Train the style encoder. The released code leaves it as it was drawn, which is false."""
    style_dropout: float = 0.25
    """Share of the samples whose style is left out, for guidance."""
    prediction: Literal["v_prediction", "epsilon"] = "v_prediction"
    """What the network learns (paper: epsilon)."""
    loss: Literal["l1", "l2"] = "l2"
    """Absolute or squared error (paper: l1)."""
    batch_size: int = 32
    optimizer: Literal["adamw", "muon"] = "muon"
    """`muon` orthogonalises the updates of the hidden matrices; see `calotype.train.muon`."""
    held_out_samples: int = 512
    """Samples that the result is measured on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("plain_share", self.plain_share), ("style_dropout", self.style_dropout)):
            if not 0 <= value < 1:
                raise InputError(f"{name} is {value}; it must be 0 or more and below 1")
        if not 0 <= self.recolour <= 1:
            raise InputError(f"recolour is {self.recolour}; it must lie between 0 and 1")
        if self.norm_num_groups < 1 or any(width < 1 or width % self.norm_num_groups for width in self.block_out_channels):
            raise InputError(f"block_out_channels are {self.block_out_channels}; norm_num_groups ({self.norm_num_groups}) must divide each")
        if min(self.window) < 16 or self.num_styles < 1 or self.held_out_samples < 1 or self.layers_per_block < 1:
            raise InputError(f"window is {self.window} (16 or more), num_styles, held_out_samples and layers_per_block must be 1 or more")
        if self.num_styles > 1 and self.style_sampler != "multi":
            raise InputError(f"num_styles is {self.num_styles} and style_sampler {self.style_sampler}; several pictures come from multi")

    @classmethod
    def small(cls) -> Self:
        """toy-tissue's numbers: 64 px, 16x16 latents, for a CPU."""
        return cls()

    @classmethod
    def paper(cls) -> Self:
        """The official code's numbers: 512 px, epsilon, L1, one style picture from nearby; for GPUs and a VQ autoencoder (--vae)."""
        return cls(
            window=(512, 512), block_out_channels=(128, 512, 1024), norm_num_groups=32, layers_per_block=2, style_width=512,
            plain_share=0.0, merge=True, encoder_channels=(64, 128, 256, 512, 768), style_sampler="nearby", num_styles=1,
            aggregation="linear", prediction="epsilon", loss="l1", optimizer="adamw", batch_size=16, learning_rate=1.6e-6, ema_decay=0.9999,
        )  # fmt: skip

    def settings(self) -> Settings:
        """The loop's numbers."""
        often = min(64, self.held_out_samples)
        return replace(
            super().settings(), optimizer=self.optimizer, held_out=self.held_out_samples, held_out_often=often, held_out_seed=7014
        )

    def data_set(self, data: Path, kept: Path, events: Events = SILENT) -> StyledWindows:
        """Windows of both folders."""
        limits = (self.intensity[0], self.intensity[1]) if self.intensity else None
        labelled = SegmentationFolder.open(
            data, merge=self.merge, intensity=limits, size_at_least=self.window, empty_masks=True, manifest=kept / NAME
        )
        if labelled.spatial_dims != 2:
            raise InputError(f"data: {data} holds volumes; style-extracting diffusion works on pictures")
        plain = None
        if self.styles and self.plain_share:
            place = Path(self.styles).expanduser()
            plain = UnlabelledFolder.open(place, intensity=limits, size_at_least=self.window, manifest=kept / "styles" / NAME)
            if plain.intensity.depth == labelled.intensity.depth:
                plain = replace(plain, intensity=labelled.intensity)
        return self.samples(labelled, plain)

    def samples(self, labelled: Any, plain: Any) -> StyledWindows:
        """The samples of two sets of pictures."""
        return StyledWindows(
            labelled, plain, self.window, sampler=self.style_sampler, num_styles=self.num_styles, plain_share=self.plain_share
        )

    def check(self, data: StyledWindows, events: Events = SILENT) -> None:
        """Tell what was found, `data_set` has read every file; refuse an autoencoder that can't be used before anything is written."""
        self.autoencoder()
        parts: list[tuple[str, Plain]] = [("data", data.labelled), *([("styles", data.plain)] if data.plain is not None else [])]
        for name, part in parts:
            for note in part.notes:
                events.note(f"{name}: {note}")
            rule = part.intensity
            told = f"{name}: {len(part)} pictures of {len(set(part.patients))} patients, {part.channels} channels"
            events.note(f"{told}{', repeated to 3' if part.channels == 1 else ''}; intensities {rule.low:g} to {rule.high:g} become 0 to 1")
        first, *others = data.labelled.class_values
        kind = "one class of" if self.merge else "the classes are"
        events.note(f"the layouts' background is {first}, {kind} {', '.join(map(str, others))}")
        if data.plain is None and self.plain_share:
            events.note("no plain pictures (--styles) are given: styles that no labelled picture has may not be learnt")

    def check_start(self, start: Path, data: StyledWindows, events: Events = SILENT) -> None:
        """Refuse another kind of model, other classes and another prediction."""
        checkpoint = open_checkpoint(start)
        if checkpoint.role != "LayoutStyleToImage":
            raise InputError(f"{start.name} is of the role {checkpoint.role}; begin with a LayoutStyleToImage, such as toy-tissue")
        known = read_json(checkpoint.parts["conditioner"].folder / "config.json")
        known["prediction"] = read_json(start / "scheduler" / "scheduler_config.json").get("prediction_type", "epsilon")
        for name, value in {"num_classes": data.labelled.num_classes, "prediction": self.prediction}.items():
            if known.get(name) != value:
                raise InputError(f"the checkpoint to begin with has {name} {known.get(name)}, and {value} was asked for")

    def build(self, data: StyledWindows, *, seed: int, start: Path | None = None) -> TraineeStyle:
        """Networks from random weights, or from a checkpoint folder."""
        labelled = data.labelled
        if start is not None:
            model = load(str(start), device="cpu", dtype="float32")
            unet, conditioner, space = model.unet, model.conditioner, model.latent_space
            for network in (unet, conditioner):
                network.requires_grad_(True).train()
        else:
            from diffusers import UNet2DModel

            space = self.autoencoder()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                unet = UNet2DModel(**self.unet_config(space))
                conditioner = StyleConditioner(
                    num_classes=labelled.num_classes, factor=space.factor, style_width=self.style_width,
                    encoder_channels=self.encoder_channels, injection=self.style_injection, aggregation=self.aggregation,
                    num_styles=self.num_styles, mid_channels=self.block_out_channels[-1], temb_channels=4 * self.block_out_channels[0],
                    norm_num_groups=self.norm_num_groups,
                )  # fmt: skip
        values = (labelled.class_values[0], labelled.class_values[1]) if self.merge else labelled.class_values
        facts = PictureFacts(window=self.window, channels=3, class_values=values, intensity=labelled.intensity.to_json())
        return TraineeStyle(
            unet, conditioner, space, facts=facts, prediction=self.prediction, loss=self.loss, train_encoder=self.train_encoder
        )

    def autoencoder(self) -> LatentSpace:
        """The latents that the UNet works on.

        Raises:
            InputError: a checkpoint without an autoencoder, or a window that doesn't fit it.
        """
        space = getattr(load(self.vae, device="cpu", dtype="float32"), "latent_space", None)
        if not isinstance(space, LatentSpace):
            raise InputError(f"vae: {self.vae} has no autoencoder; take toy-vae-wide, or a folder of an AutoencoderKL or a VQModel")
        side = space.factor * 2 ** (len(self.block_out_channels) - 1)
        if any(size % side for size in self.window):
            raise InputError(
                f"window is {self.window}; its sides must be multiples of {side} (the autoencoder's {space.factor}, the UNet's levels)"
            )
        return space

    def unet_config(self, space: LatentSpace) -> dict[str, Any]:
        """The arguments of diffusers' `UNet2DModel`: attention in the middle alone, as the official network has it."""
        levels = len(self.block_out_channels)
        height, width = (side // space.factor for side in self.window)
        return {
            "sample_size": height if height == width else (height, width),
            "in_channels": space.channels + 3,
            "out_channels": space.channels,
            "block_out_channels": self.block_out_channels,
            "layers_per_block": self.layers_per_block,
            "down_block_types": ("DownBlock2D",) * levels,
            "up_block_types": ("UpBlock2D",) * levels,
            "attention_head_dim": max(1, self.block_out_channels[-1] // 8),
            "norm_num_groups": self.norm_num_groups,
        }

    def source(self, trainee: TraineeStyle, data: StyledWindows, device: str) -> StyledBatches:
        """Batches of the samples."""
        return StyledBatches(
            data, trainee.latent_space, num_classes=trainee.facts.num_classes, style_dropout=self.style_dropout, recolour=self.recolour,
            recolour_by=self.recolour_by, device=device,
        )  # fmt: skip

    def draw(self, trainee: TraineeStyle, source: StyledBatches, path: Path) -> list[Path]:
        """Rows of layout, its own picture, and pictures of it in four other samples' styles, which stand in the first row."""
        from calotype.train.sample_grids import save_grid

        found = source.data.rows(range(64))
        known = [place for place in range(64) if int(found["layout"][place].min()) >= 0][:4]
        styles = found["styles"][-4:]
        levels = found["layout"].float() / (trainee.facts.num_classes - 1)
        cells = [torch.zeros_like(found["image"][0]), torch.zeros_like(found["image"][0]), *styles[:, 0]]
        for place in known:
            made = generate(trainee, source, found["layout"][place].expand(4, -1, -1), styles)
            cells += [levels[place].expand(3, -1, -1), found["image"][place], *made.cpu()]
        return [save_grid(torch.stack(cells), 6, path, scale=2)]

    def write(self, trainee: TraineeStyle, folder: Path, *, rounded: bool = False) -> None:
        """See `calotype.backbones.layout_style`; `rounded` keeps 8 bits a weight."""
        from diffusers import DDIMScheduler

        scheduler = DDIMScheduler(
            **SCHEDULE,
            prediction_type=self.prediction,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            timestep_spacing="leading",
        )
        save_parts(
            folder, unet=trainee.unet, conditioner=trainee.conditioner, vae=trainee.latent_space.vae, scheduler=scheduler,
            facts=trainee.facts, rounded=rounded,
        )  # fmt: skip


@torch.no_grad()
def generate(
    trainee: TraineeStyle, source: StyledBatches, layouts: Tensor, styles: Float[Tensor, "batch count 3 height width"], *, steps: int = 20,
    guidance: float = 1.5,
) -> Float[Tensor, "batch 3 height width"]:  # fmt: skip
    """Pictures of layouts (class numbers) in styles in [0, 1], by DDIM; the noise is always the same."""
    device, kept = trainee.alphas.device, trainee.conditioner
    preconditioner, schedule = trainee.preconditioner, VPSchedule.of(**SCHEDULE)
    layout = kept.layout_channels(one_hot(layouts, trainee.facts.num_classes).to(device))
    pictures = styles.to(device) * 2.0 - 1.0
    conditions = {"cond": kept(pictures), "uncond": kept(torch.full_like(pictures, NULL_STYLE))}
    rule = ClassifierFreeGuidance(guidance)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        time = torch.full((len(x),), preconditioner.timestep(sigma), device=device)
        seen = torch.cat([preconditioner.scale_input(x, sigma), layout], 1)
        estimates = {
            name: preconditioner.estimate(x, run_unet(trainee.unet, kept, seen, time, style), sigma) for name, style in conditions.items()
        }
        return rule.combine(estimates, sigma)

    sigmas = schedule.table(steps, steps_offset=1)
    shape = source.latent_space.shape((layouts.shape[-2], layouts.shape[-1]))
    noise = torch.randn((len(layouts), *shape), generator=torch.Generator().manual_seed(0)).to(device)
    return source.latent_space.decode(sample(denoise, noise * (float(sigmas[0]) ** 2 + 1.0) ** 0.5, sigmas))
