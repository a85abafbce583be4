"""The training of CMD: an autoencoder of clips, then an image model of its content frames and a transformer of its motion."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calotype.backbones.autoencoder import LatentSpace
from calotype.backbones.content_motion import ClipFacts, ContentMotionDiffusion, save_parts, text_states
from calotype.backbones.content_motion_network import ContentMotion, ContentMotionAutoencoder, Motion, MotionDiT
from calotype.backbones.folder import open_checkpoint
from calotype.backbones.headers import read_json
from calotype.backbones.loading import load
from calotype.backbones.text import tokenize
from calotype.backbones.text_to_image import StableDiffusion
from calotype.core.denoiser import Preconditioner, Rates
from calotype.core.events import SILENT, Events
from calotype.core.schedule import VPSchedule
from calotype.data.clip_folder import ClipFolder
from calotype.data.folders import FolderData
from calotype.data.manifest import NAME
from calotype.errors import InputError
from calotype.train.clip_latents import clip_latents
from calotype.train.latents import Chunks
from calotype.train.low_rank import adapt, adapted
from calotype.train.recipe import Settings
from calotype.train.rng import BatchRng
from calotype.train.stages import Group, Stage
from calotype.train.training import Training

StageName = Literal["autoencoder", "content", "motion"]
STAGES: tuple[StageName, ...] = get_args(StageName)
SHARES: Mapping[str, float] = {"autoencoder": 0.35, "content": 0.15, "motion": 0.5}
"""Of the budget."""
SCHEDULE: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
"""Of the motion: Stable Diffusion's."""
MOST_CONTENT_NOISE = 400
"""Highest timestep of the noise on a content frame that the motion model sees."""
MOMENTUM = 0.02
"""Least share of a batch in the running moments of the motion; the first batches have more."""
SNR_CAP, LEAST_WEIGHT = 5.0, 0.3
"""Of the loss of v (Hang et al. 2023, arXiv 2303.09556), where the image model predicts v; the paper's is the plain loss of epsilon."""


class TraineeCMD(nn.Module):
    """The three networks and their losses; the image autoencoder and the text encoder stay as they are.

    Args:
        autoencoder, unet, motion_network: what is trained, in stages of these names (`unet` in `content`).
        image_model: has the text encoder, the image autoencoder and the noise levels of the content frames.
        stages: that are trained.
        facts: of the clips; the motion's moments are measured while the autoencoder is trained.
        content_noise: share of the samples whose content frame has noise on it where the motion model sees it.
    """

    motion_mean: Tensor
    motion_variance: Tensor
    observed: Tensor
    content_alphas: Tensor
    motion_alphas: Tensor

    def __init__(
        self, autoencoder: ContentMotionAutoencoder, unet: nn.Module, motion_network: MotionDiT, *, image_model: StableDiffusion,
        stages: Sequence[StageName], facts: ClipFacts, content_noise: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.autoencoder, self.unet, self.motion_network = autoencoder, unet, motion_network
        self.image_model, self.stages, self.facts, self.content_noise = image_model, tuple(stages), facts, content_noise
        self.stage: str = stages[0]
        levels = VPSchedule.from_config(dict(image_model.model_sampling.config)), VPSchedule.of(**SCHEDULE)
        self.content_preconditioner = image_model.model_sampling.preconditioner
        self.motion_preconditioner = Preconditioner("v_prediction", levels[1].t)
        for name, schedule in zip(("content", "motion"), levels, strict=True):
            self.register_buffer(f"{name}_alphas", schedule.alphas_cumprod.float(), persistent=False)
        self.register_buffer("motion_mean", torch.tensor(facts.motion_mean))
        self.register_buffer("motion_variance", torch.tensor(facts.motion_std).square())
        self.register_buffer("observed", torch.zeros(()))

    def enter(self, stage: str) -> None:
        """Train this network from here on."""
        self.stage = stage

    def forward(self, batch: Mapping[str, Tensor]) -> Float[Tensor, " batch"]:
        """`latents` [B, F, C, h, w]; `text` [B, T, W] and `feature` [B, W] of the caption, or of none; `content_noise` and `shown_noise`
        [B, C, h, w], `motion_noise` [B, D, F, rows + columns]; `time`, `motion_time`, `shown_time` and `shown` [B] in [0, 1).

        In training the loss of one network, otherwise the sum of those that are trained, so that two trainings can be compared.
        """
        stages = (self.stage,) if self.training else self.stages
        losses: list[Tensor] = []
        if "autoencoder" in stages:
            encoded = self.autoencoder.encode(batch["latents"])
            if self.training:
                self._observe(encoded.motion)
            rebuilt = self.autoencoder.decode(encoded.content, encoded.motion)
            losses.append((rebuilt.float() - batch["latents"]).square().flatten(1).mean(1))
        else:
            with torch.no_grad():
                encoded = self.autoencoder.encode(batch["latents"])
        if "content" in stages:
            losses.append(self._content_loss(encoded, batch))
        if "motion" in stages:
            losses.append(self._motion_loss(encoded, batch))
        return torch.stack(losses).sum(0)

    def _content_loss(self, encoded: ContentMotion, batch: Mapping[str, Tensor]) -> Tensor:
        count = len(self.content_alphas)
        timesteps = (batch["time"] * count).long()
        alpha = self.content_alphas[timesteps].view(-1, 1, 1, 1)
        seen, target = self.content_preconditioner.example(encoded.content.detach().float(), batch["content_noise"], Rates.of_alpha(alpha))
        output = self.unet(seen, timesteps, batch["text"]).sample
        losses: Tensor = (output.float() - target).square().flatten(1).mean(1)
        if self.content_preconditioner.prediction == "v_prediction":
            snr = (alpha / (1.0 - alpha)).flatten()
            losses = losses * (snr.clamp(max=SNR_CAP) / (snr + 1.0)).clamp(min=LEAST_WEIGHT)
        return losses

    def _motion_loss(self, encoded: ContentMotion, batch: Mapping[str, Tensor]) -> Tensor:
        motion = self._packed(encoded.motion).detach().float()
        content, level = encoded.content.detach().float(), (batch["shown_time"] * MOST_CONTENT_NOISE).long() + 1
        level = torch.where(batch["shown"] < self.content_noise, level, 0)
        rates = Rates.of_alpha(torch.where(level > 0, self.motion_alphas[level], 1.0).view(-1, 1, 1, 1))
        shown = rates.signal * content + rates.noise * batch["shown_noise"]
        timesteps = (batch["motion_time"] * len(self.motion_alphas)).long()
        alpha = self.motion_alphas[timesteps].view(-1, 1, 1, 1)
        seen, target = self.motion_preconditioner.example(motion, batch["motion_noise"], Rates.of_alpha(alpha))
        sides = [self.motion_network.config.rows, self.motion_network.config.columns]
        made = self.motion_network(Motion(*seen.split(sides, dim=-1)), timesteps.float(), shown, batch["feature"], level.float())
        losses: Tensor = (torch.cat(list(made), -1).float() - target).square().flatten(1).mean(1)
        return losses

    def _packed(self, motion: Motion) -> Tensor:
        return (torch.cat(list(motion), -1) - self.motion_mean.view(-1, 1, 1)) / self.motion_variance.sqrt().view(-1, 1, 1)

    @torch.no_grad()
    def _observe(self, motion: Motion) -> None:
        """Move the moments of the motion towards a batch's."""
        values = torch.cat(list(motion), -1).float()
        self.observed += 1
        share = (1.0 / self.observed).clamp(min=MOMENTUM)
        self.motion_mean.lerp_(values.mean((0, 2, 3)), share)
        self.motion_variance.lerp_((values - self.motion_mean.view(-1, 1, 1)).square().mean((0, 2, 3)).clamp(min=1e-8), share)

    def measured(self) -> ClipFacts:
        """The facts with the moments as they are now, and what is trained."""
        mean, std = self.motion_mean.tolist(), self.motion_variance.sqrt().tolist()
        # Content frames and motion of another autoencoder than they were trained on mean nothing to the other two.
        kept = () if "autoencoder" in self.stages else self.facts.trained
        trained = tuple(name for name in STAGES if name in (*kept, *self.stages))
        return replace(self.facts, motion_mean=tuple(mean), motion_std=tuple(std), trained=trained)


class ContentMotionBatches:
    """Batches of clips as latents with their captions, noise and noise levels.

    Args:
        chunks: rows of `latents` [F, C, h, w].
        captions: of each row; "" of one without.
        trainee: has the text encoder and the motion's shape.
        caption_dropout: share of the samples that are trained without their caption.
        device: of the training.
    """

    def __init__(self, chunks: Chunks, captions: Sequence[str], trainee: TraineeCMD, *, caption_dropout: float, device: str) -> None:
        self.chunks, self.caption_dropout, self.device = chunks, caption_dropout, device
        self.image_model = trainee.image_model
        # Once and not in every batch: a caption that is too long is told each time that it is cut.
        self.ids, self.mask = tokenize(self.image_model.modules["tokenizer"], [*captions, ""])
        config = trainee.motion_network.config
        self.motion_shape = (config.motion_channels, config.num_frames, config.rows + config.columns)
        self.count = chunks.count

    def batch(self, rows: Sequence[int], rng: BatchRng, *, augment: bool) -> dict[str, Tensor]:
        """See `calotype.train.recipe.Source`."""
        numbers = [row % self.count for row in rows]
        latents = self.chunks.rows(numbers)["latents"].float()
        ids, mask = self.ids[numbers], self.mask[numbers]
        if augment:
            dropped = (rng.uniform() < self.caption_dropout)[:, None]
            ids, mask = torch.where(dropped, self.ids[-1], ids), torch.where(dropped, self.mask[-1], mask)
        encoder = self.image_model.modules["text_encoder"]
        text, feature = text_states(encoder, ids, mask, encoder.device)
        device = torch.device(self.device)
        made = {
            "latents": latents, "content_noise": rng.normal(latents.shape[2:]), "shown_noise": rng.normal(latents.shape[2:]),
            "motion_noise": rng.normal(self.motion_shape), "time": rng.stratified(), "motion_time": rng.stratified(),
            "shown_time": rng.uniform(), "shown": rng.uniform() if augment else torch.ones(len(rows)),
            "text": text.float(), "feature": feature.float(),
        }  # fmt: skip
        return {name: tensor.to(device) for name, tensor in made.items()}


@dataclass(frozen=True, kw_only=True)
class CMDTraining(Training):
    """A generator of clips from captions, from a folder of clips and an image model.

    `--stage all` trains the autoencoder, then the image model on its content frames, then the motion. The image model or the motion alone
    begins with a checkpoint (`--model`) that has the autoencoder, and leaves all else in it as it is.

    Example:
        >>> CMDTraining.paper().num_frames, CMDTraining().stage
        (16, 'all')
    """

    slug: ClassVar[str] = "cmd"
    presets: ClassVar[tuple[str, ...]] = ("small", "paper")

    stage: Literal["all", "autoencoder", "content", "motion"] = "all"
    """What is trained."""
    image_model: str = "toy-t2i"
    """Makes content frames after its training: an embedded model, a folder of a Stable Diffusion 1.x or 2.x, or a hub id."""
    size: tuple[int, int] = (64, 64)
    """Height and width that frames are fitted to."""
    num_frames: int = 8
    """Frames of a clip; longer ones are cut."""
    stride: int = 1
    """Every so many frames one is taken."""
    skip: int = 0
    """Frames of each clip that are left out at its beginning."""
    patch: int = 2
    """Cells of the latents along a side of the autoencoder's tokens."""
    width: int = 128
    """Numbers of the autoencoder's tokens."""
    depth: int = 3
    """Blocks of its encoder, and of its decoder."""
    heads: int = 4
    """Of its attentions."""
    motion_channels: int = 8
    """Numbers of the motion at each row and column of tokens."""
    motion_patch: int = 2
    """Frames, and rows or columns, of a token of the motion."""
    content_patch: int = 4
    """Cells along a side of a token of the content frame, where the motion model sees it."""
    content_tokens: bool = True
    """Whether the motion model sees the content frame at all; without it, motion depends on the caption alone."""
    motion_width: int = 128
    """Numbers of the motion model's tokens."""
    motion_depth: int = 5
    """Its blocks."""
    motion_heads: int = 4
    """Of its attention."""
    caption_dropout: float = 0.1
    """Share of the samples that are trained without their caption, for guidance."""
    content_noise: float = 0.5
    """Share of the samples whose content frame has noise on it, of a strength that the motion model is told: made content frames are never
    quite like those of the training (not in the paper, which is 0)."""
    batch_size: int = 16
    learning_rate: float = 1e-3
    autoencoder_rate: float = 1.0
    """Times the learning rate, for the autoencoder."""
    content_rate: float = 0.3
    """Times the learning rate, for the image model."""
    content_rank: int = 0
    """Of the difference that is trained of each of the image model's attention projections (LoRA); 0 trains all of its weights, as the
    paper does."""
    autoencoder_betas: tuple[float, float] = (0.9, 0.99)
    """Of Adam, for the autoencoder."""
    diffusion_betas: tuple[float, float] = (0.9, 0.99)
    """Of Adam, for the image model and the motion."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Of the image model and the motion; `muon` orthogonalises the updates of the hidden matrices."""
    held_out_samples: int = 128
    """Clips that the result is measured on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("caption_dropout", "content_noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1")
        least = (
            "stride", "patch", "width", "depth", "heads", "motion_channels", "motion_patch", "content_patch", "motion_width",
            "motion_depth", "motion_heads", "held_out_samples",
        )  # fmt: skip
        for name in least:
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if self.num_frames < 2 or self.num_frames % self.motion_patch:
            raise InputError(f"num_frames is {self.num_frames}; it must be 2 or more, and a multiple of motion_patch ({self.motion_patch})")
        if self.width % (4 * self.heads) or self.motion_width % (4 * self.motion_heads):
            raise InputError(
                f"width is {self.width} with {self.heads} heads and motion_width {self.motion_width} with {self.motion_heads}; widths must "
                "be multiples of 4 times the heads"
            )
        for name in ("autoencoder_rate", "content_rate"):
            if not 0 < getattr(self, name) <= 10:
                raise InputError(f"{name} is {getattr(self, name)}; it must be above 0 and at most 10")
        for name in ("autoencoder_betas", "diffusion_betas"):
            if not all(0 <= beta < 1 for beta in getattr(self, name)):
                raise InputError(f"{name} are {getattr(self, name)}; both must be 0 or more and below 1")
        if self.content_rank < 0:
            raise InputError(f"content_rank is {self.content_rank}; it must be 0 or more")

    @classmethod
    def small(cls) -> Self:
        """toy-cmd's numbers: 64 px, 8 frames, for a CPU."""
        return cls()

    @classmethod
    def paper(cls) -> Self:
        """The paper's numbers for Stable Diffusion 1.5: 16 frames of 512 px; for GPUs. Its batches were 24 for the autoencoder and 256 for
        the other two: train one stage at a time with --batch-size."""
        return cls(
            image_model="stable-diffusion-v1-5/stable-diffusion-v1-5", size=(512, 512), num_frames=16, width=384, depth=12, heads=8,
            motion_width=1152, motion_depth=28, motion_heads=16, content_noise=0.0, batch_size=24, learning_rate=1e-4,
            autoencoder_rate=0.1, content_rate=1.0, autoencoder_betas=(0.5, 0.9), diffusion_betas=(0.9, 0.999), ema_decay=0.999,
        )  # fmt: skip

    def __call__(
        self, data: str | os.PathLike[str], out: str | os.PathLike[str], *, model: str | os.PathLike[str] | None = None, **others: Any
    ) -> Path:
        """See `Training`.

        Raises:
            InputError: a stage that needs the autoencoder of a checkpoint, and none is given.
        """
        if not model and self.stage in ("content", "motion"):
            raise InputError(f"stage {self.stage} begins with a checkpoint that has the autoencoder; give --model")
        return super().__call__(data, out, model=model, **others)

    def stages(self) -> tuple[StageName, ...]:
        """What is trained, in order."""
        return STAGES if self.stage == "all" else (self.stage,)

    def settings(self) -> Settings:
        """The loop's numbers; each stage has its own network."""
        groups = {
            "autoencoder": Group(
                modules=("autoencoder",), optimizer="adamw", rate=self.autoencoder_rate, betas=self.autoencoder_betas, weight_decay=0.0
            ),
            "content": Group(modules=("unet",), rate=self.content_rate, betas=self.diffusion_betas),
            "motion": Group(modules=("motion_network",), betas=self.diffusion_betas),
        }
        stages = tuple(Stage(name=name, share=SHARES[name], groups={"main": groups[name]}) for name in self.stages())
        often = min(32, self.held_out_samples)
        return replace(
            super().settings(), optimizer=self.optimizer, decay_share=0.4, stages=stages, held_out=self.held_out_samples,
            held_out_often=often, held_out_seed=7016,
        )  # fmt: skip

    def data_set(self, data: Path, kept: Path, events: Events = SILENT) -> ClipFolder:
        """Excerpts of the clips, with captions where there are any."""
        return ClipFolder.open(
            data, size=self.size, num_frames=self.num_frames, stride=self.stride, skip=self.skip, manifest=kept / NAME, events=events
        )

    def check(self, data: ClipFolder, events: Events = SILENT) -> None:
        """Tell what was found; refuse an image model that can't be used before anything is written."""
        space = self._image_model(None).latent_space
        self._cells(space)
        events.note(f"{len(data)} excerpts of {self.num_frames} frames, every frame of {self.stride} taken, fitted to {self.size}")
        if not any(data.captions(range(len(data)))) and self.stage != "autoencoder":
            events.note("the clips have no captions: what is made can't be asked for by text")

    def check_start(self, start: Path, data: Any, events: Events = SILENT) -> None:
        """Refuse another kind of model and other shapes."""
        checkpoint = open_checkpoint(start)
        if checkpoint.role != "ContentMotionVideo":
            raise InputError(f"{start.name} is of the role {checkpoint.role}; begin with a ContentMotionVideo, such as toy-cmd")
        autoencoder, motion, vae = (
            read_json(checkpoint.parts[name].folder / "config.json") for name in ("autoencoder", "motion_network", "vae")
        )
        found = {name: autoencoder.get(name) for name in ("width", "depth", "heads", "patch", "motion_channels")}
        cells = 2 ** (len(vae.get("block_out_channels", [0])) - 1)
        found |= {"num_frames": motion.get("num_frames"), "size": tuple(side * cells for side in motion.get("content_size", ()))}
        if "motion" in self.stages() and "motion" in checkpoint.index.get("trained", STAGES):
            found |= {f"motion_{name}": motion.get(name) for name in ("patch", "width", "depth", "heads")}
            found["content_patch"] = motion.get("content_patch")
        for name, value in found.items():
            if value != getattr(self, name):
                raise InputError(f"the checkpoint to begin with has {name} {value}, and {getattr(self, name)} was asked for")
        if self.image_model != type(self).image_model and self.stage != "motion":
            events.note(f"image_model {self.image_model} isn't used: the content model of {start.name} goes on")

    def build(self, data: Any, *, seed: int, start: Path | None = None) -> TraineeCMD:
        """The networks, from a checkpoint folder or from the image model and random weights.

        Only what has its stage can be trained. A checkpoint whose motion model was never trained gets one of the numbers asked for.
        """
        model = self._image_model(start)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if isinstance(model, ContentMotionDiffusion):
                autoencoder, network, facts = model.autoencoder, model.motion.network, model.facts
                if "motion" in self.stages() and "motion" not in facts.trained:
                    network = self._motion_network(model)
            else:
                autoencoder = ContentMotionAutoencoder(
                    channels=model.latent_space.channels, patch=self.patch, width=self.width, depth=self.depth, heads=self.heads,
                    motion_channels=self.motion_channels,
                )  # fmt: skip
                network = self._motion_network(model)
                rate = float(data.rows([0])["fps"][0])
                facts = ClipFacts(self.num_frames, rate, (0.0,) * self.motion_channels, (1.0,) * self.motion_channels, ())
            for name, part in zip(STAGES, (autoencoder, model.unet, network), strict=True):
                part.train().requires_grad_(name in self.stages())
            if "content" in self.stages() and self.content_rank:
                adapt(model.unet, self.content_rank)
        return TraineeCMD(
            autoencoder, model.unet, network, image_model=model, stages=self.stages(), facts=facts, content_noise=self.content_noise
        )

    def _motion_network(self, model: StableDiffusion) -> MotionDiT:
        rows, columns = self._cells(model.latent_space)
        network: MotionDiT = MotionDiT(
            motion_channels=self.motion_channels, num_frames=self.num_frames, rows=rows, columns=columns,
            content_channels=model.latent_space.channels, content_size=(rows * self.patch, columns * self.patch),
            patch=self.motion_patch, content_patch=self.content_patch, width=self.motion_width, depth=self.motion_depth,
            heads=self.motion_heads, text_width=model.modules["text_encoder"].config.hidden_size,
            sees_content=self.content_tokens,
        )  # fmt: skip
        return network

    def _image_model(self, start: Path | None) -> StableDiffusion:
        name = self.image_model if start is None else str(start)
        model = load(name, device="cpu", dtype="float32")
        if (
            not isinstance(model, StableDiffusion)
            or model.role not in ("TextToImage", "ContentMotionVideo")
            or "text_encoder_2" in model.modules
        ):
            raise InputError(f"image_model: {name} is of the role {model.role}; give a Stable Diffusion 1.x or 2.x, such as toy-t2i")
        return model

    def _cells(self, space: LatentSpace) -> tuple[int, int]:
        """(rows, columns) of the autoencoder's tokens.

        Raises:
            InputError: the size isn't a whole number of them, or of the motion model's.
        """
        side = space.factor * self.patch
        if any(length % (side * self.motion_patch) or length % (space.factor * self.content_patch) for length in self.size):
            raise InputError(
                f"size is {self.size}; its sides must be multiples of {side * self.motion_patch} and {space.factor * self.content_patch} "
                f"(the image autoencoder's {space.factor}, patch, motion_patch, content_patch)"
            )
        return self.size[0] // side, self.size[1] // side

    def source(self, trainee: TraineeCMD, data: FolderData, device: str) -> ContentMotionBatches:
        """Batches of the excerpts; frames are encoded once, and kept."""
        space = trainee.image_model.latent_space
        chunks = clip_latents(data, LatentSpace(space.vae.to(device), torch.device(device)))
        return self.batches(trainee, chunks, data.captions(range(len(data))), device)

    def batches(self, trainee: TraineeCMD, chunks: Chunks, captions: Sequence[str], device: str) -> ContentMotionBatches:
        """Batches of clips that are encoded already."""
        return ContentMotionBatches(chunks, captions, trainee, caption_dropout=self.caption_dropout, device=device)

    @torch.no_grad()
    def draw(self, trainee: TraineeCMD, source: ContentMotionBatches, path: Path) -> list[Path]:
        """Clips in rows: the frames that went in, the content frame and what is rebuilt of it and the motion."""
        from calotype.train.sample_grids import save_grid

        batch = source.batch(range(4), BatchRng(0, 0, range(4), 4), augment=False)
        encoded = trainee.autoencoder.encode(batch["latents"])
        rebuilt = trainee.autoencoder.decode(encoded.content, encoded.motion)
        frames = torch.linspace(0, rebuilt.shape[1] - 1, min(4, rebuilt.shape[1])).long()
        space = trainee.image_model.latent_space
        shown = torch.cat([batch["latents"][:, frames], encoded.content[:, None], rebuilt[:, frames]], 1)
        return [save_grid(space.decode(shown.flatten(0, 1)).cpu(), shown.shape[1], path, scale=2)]

    def write(self, trainee: TraineeCMD, folder: Path, *, rounded: bool = False) -> None:
        """See `calotype.backbones.content_motion`; `rounded` keeps 8 bits a weight."""
        from diffusers import DDIMScheduler

        image = trainee.image_model
        unet = type(image.unet).from_config(image.unet.config)
        unet.load_state_dict(adapted(trainee.unet))
        config = {key: value for key, value in image.model_sampling.config.items() if not key.startswith("_")}
        motion = DDIMScheduler(**SCHEDULE, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, steps_offset=1)
        parts = {
            "unet": unet, "text_encoder": image.modules["text_encoder"], "tokenizer": image.modules["tokenizer"], "vae": image.vae,
            "scheduler": DDIMScheduler.from_config(config), "autoencoder": trainee.autoencoder, "motion_network": trainee.motion_network,
        }  # fmt: skip
        save_parts(folder, parts, motion_scheduler=motion, facts=trainee.measured(), rounded=rounded)
