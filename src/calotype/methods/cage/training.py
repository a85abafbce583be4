"""The training of CAGE: flow matching on short windows of clips, some cells of whose frames are given by their features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from calotype.backbones.autoencoder import LatentSpace
from calotype.backbones.composable_video import save_parts
from calotype.backbones.control_features import ControlEncoder, control_features, feature_width
from calotype.backbones.control_video_network import ControlledVideoTransformer
from calotype.backbones.folder import open_checkpoint
from calotype.backbones.headers import read_json
from calotype.backbones.loading import load
from calotype.backbones.transformer import patches
from calotype.core.denoiser import Preconditioner, Rates, flow_timestep
from calotype.core.events import SILENT, Events
from calotype.data.clip_folder import ClipFolder
from calotype.data.folders import FolderData
from calotype.data.manifest import NAME
from calotype.errors import InputError
from calotype.methods.cage.contrast import contrast
from calotype.methods.cage.crops import Crops
from calotype.methods.cage.sampling import TARGETS, Controls, Known, integrate, joint_times
from calotype.train.clip_latents import clip_latents
from calotype.train.latents import Chunks
from calotype.train.recipe import Settings
from calotype.train.rng import BatchRng
from calotype.train.stages import Group, Stage
from calotype.train.training import Training

OWN = "own"
FEATURES, VIDEO = "features", "video"
PROJECTION = 32
"""Numbers that features are compared by while they are learnt."""
NEAR_SHIFT = 0.5
"""Farthest middle of a view from which features are learnt: two views must overlap."""
LEAST_SPREAD = 0.3
"""Standard deviation of latents from which on they are about as large as noise."""
SHARES = {FEATURES: 0.04, VIDEO: 0.96}
KNOWN = ((0.15, 0), (0.55, 1), (0.30, 2))
"""How often a step sees no known frame, the reference alone, and the reference and one before it."""


class TraineeCAGE(nn.Module):
    """The network, the encoder of control features, and their losses; the autoencoder stays as it is.

    Args:
        transformer: gives velocities.
        control_encoder: see `calotype.backbones.control_features.control_features`.
        latent_space: what the frames are encoded with.
        layers: of a DINOv2 encoder.
        given: the encoder is there already and stays as it is, since the network knows its features.
    """

    def __init__(
        self, transformer: ControlledVideoTransformer, control_encoder: nn.Module, latent_space: LatentSpace, *, layers: int, given: bool
    ) -> None:
        super().__init__()
        self.transformer, self.control_encoder, self.latent_space, self.layers = transformer, control_encoder, latent_space, layers
        self.projection = nn.Linear(feature_width(control_encoder, layers), PROJECTION)
        self.preconditioner = Preconditioner("flow", flow_timestep)
        self.stage = VIDEO
        if given:
            for part in (control_encoder, self.projection):
                part.requires_grad_(False)

    def enter(self, stage: str) -> None:
        """Learn the features, or the video model, from here on."""
        self.stage = stage

    def features(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch features rows columns"]:
        """Control features of pixels in [-1, 1]."""
        rows, columns = self.transformer.config.grid
        return control_features(self.control_encoder, pixels, (rows, columns), self.layers)

    def forward(self, batch: Mapping[str, Tensor]) -> Float[Tensor, " batch"]:
        """`latents` [B, 2 + T, C, h, w] of an earlier frame, the reference and the targets; `pixels` [B, T, 3, H, W] of the targets in
        [0, 1]; `offsets` [B, 2 + T]; `known` [B], frames before the targets that are given, the same in a batch; `noise` [B, T, C, h, w];
        `times` [B, T]; `view`, `other_view` [B, T, 4], `whole`, `share` [B, T], `chance` [B, T, rows, columns] in [0, 1); `kept` [B, n]."""
        frames = batch["pixels"].flatten(0, 1) * 2.0 - 1.0
        views = Crops.drawn(batch["view"].flatten(0, 1)).whole_where(batch["whole"].flatten() > 0)
        if self.training and self.stage == FEATURES:
            near = tuple(Crops.drawn(batch[name].flatten(0, 1), NEAR_SHIFT) for name in ("view", "other_view"))
            loss = contrast(self._projected, frames, (near[0], near[1]), batch["chance"].flatten(0, 1))
            return loss.expand(len(batch["latents"]))
        count = batch["pixels"].shape[:2]
        with torch.no_grad():
            features = views.paste(self.features(views.view(frames))).unflatten(0, count)
        rows, columns = self.transformer.config.grid
        shown = views.covered((rows, columns)).unflatten(0, count)
        given = shown * (batch["chance"] < batch["share"][:, :, None, None])
        known = int(batch["known"][0])
        times = batch["times"][:, :, None, None, None]
        before, targets = batch["latents"][:, 2 - known : 2], batch["latents"][:, 2:]
        seen, wanted = self.preconditioner.example(targets, batch["noise"], Rates.of_flow_time(times))
        velocity = self.transformer(
            torch.cat([before, seen], 1), batch["offsets"][:, 2 - known :], torch.nn.functional.pad(batch["times"], (known, 0)), features,
            given, batch["kept"],
        )  # fmt: skip
        cut = patches(wanted, self.transformer.config.patch).flatten(2, 3)
        cut = cut.gather(2, batch["kept"][:, None, :, None].expand(-1, cut.shape[1], -1, cut.shape[-1]))
        losses: Tensor = (velocity.float() - cut).square().flatten(1).mean(1)
        return losses

    def _projected(self, pixels: Tensor) -> Tensor:
        made: Tensor = self.projection(self.features(pixels).movedim(1, -1)).movedim(-1, 1)
        return made


class ControlledBatches:
    """Windows of clips with what their training needs: views of the targets, cells that are given, flow times and noise.

    Args:
        chunks: rows of `latents` [F, C, h, w] and `pixels` [F, 3, H, W] uint8.
        training: the numbers.
        grid: of the features.
        device: of the training.
    """

    def __init__(self, chunks: Chunks, training: CAGETraining, *, grid: tuple[int, int], device: str) -> None:
        self.chunks, self.training, self.grid, self.device = chunks, training, grid, device
        self.count = chunks.count

    def batch(self, rows: Sequence[int], rng: BatchRng, *, augment: bool) -> dict[str, Tensor]:
        """See `calotype.train.recipe.Source`; which frames are known, and how many cells are computed, is the same for a whole step."""
        numbers, cells = self.training, self.grid[0] * self.grid[1]
        found = self.chunks.rows([row % self.count for row in rows])
        length = found["latents"].shape[1]
        reference = 1 + (rng.uniform() * (length - TARGETS - 1)).long()
        earlier = (rng.uniform() * reference).long()
        frames = torch.stack([earlier, reference, *(reference + step for step in range(1, TARGETS + 1))], 1)
        place = torch.arange(len(rows))[:, None]
        step = np.random.Generator(np.random.PCG64(np.random.SeedSequence([rng.seed, rng.step, 91]))).random(2)
        shares = np.cumsum([share for share, _ in KNOWN])
        known = KNOWN[min(int(np.searchsorted(shares, step[0], side="right")), len(KNOWN) - 1)][1]
        dropping = augment and step[1] >= numbers.whole_steps
        left = max(1, round(cells * (1.0 - numbers.token_dropping))) if dropping else cells
        drawn = torch.stack([rng.uniform() for _ in range(TARGETS * (4 + 4 + 1 + 1 + 1))], 1).unflatten(1, (TARGETS, -1))
        chance = rng.normal((TARGETS, *self.grid))
        made = {
            "latents": found["latents"][place, frames].float(),
            "pixels": found["pixels"][place, frames[:, 2:]].float() / 255.0,
            "offsets": frames - reference[:, None],
            "known": torch.full((len(rows),), known),
            "noise": rng.normal((TARGETS, *found["latents"].shape[2:])),
            "times": 1.0 - drawn[:, :, 8] ** numbers.time_power,
            "view": drawn[:, :, :4], "other_view": drawn[:, :, 4:8],
            "whole": (drawn[:, :, 9] < numbers.whole_views).float(),
            "share": numbers.given_share * drawn[:, :, 10],
            "chance": torch.special.ndtr(chance),
            "kept": rng.normal((cells,)).argsort(1)[:, :left],
        }  # fmt: skip
        return {name: tensor.to(self.device) for name, tensor in made.items()}


@dataclass(frozen=True, kw_only=True)
class CAGETraining(Training):
    """A composer of scenes, from a folder of plain clips of one domain: no captions, no masks, no tracks.

    Example:
        >>> CAGETraining.paper().size, CAGETraining().grid(4)
        ((256, 256), (8, 8))
    """

    slug: ClassVar[str] = "cage"
    presets: ClassVar[tuple[str, ...]] = ("small", "paper")

    size: tuple[int, int] = (64, 64)
    """Height and width that frames are fitted to."""
    num_frames: int = 16
    """Frames of an excerpt, from which windows are taken."""
    stride: int = 1
    """Every so many frames one is taken."""
    skip: int = 0
    """Frames of each clip that are left out at its beginning."""
    autoencoder: str = "toy-vae-wide"
    """An embedded model, a folder of an AutoencoderKL or a VQModel, or a hub id. It isn't trained."""
    features: str = OWN
    """Control features: `own`, a small encoder that is learnt from the clips first; a checkpoint of this method, whose encoder is taken; or
    a folder of a DINOv2 model."""
    feature_layers: int = 1
    """Of a DINOv2 model: so many of its last layers (paper: 1 for CLEVRER, 2 for BAIR and EPIC)."""
    patch: int = 2
    """Cells of the latents along a side of a token."""
    width: int = 128
    """Numbers of a token."""
    depth: int = 4
    """Blocks."""
    heads: int = 4
    """Of the attention."""
    given_share: float = 0.6
    """Most of a frame's shown cells that are given; the share is drawn between 0 and this (paper: .1 of the cells, always)."""
    whole_views: float = 0.2
    """Share of the frames whose features are of the whole frame and not of a view (paper: 0)."""
    token_dropping: float = 0.4
    """Share of the cells that a training step leaves out, the same in all frames of a window."""
    whole_steps: float = 0.15
    """Share of the steps that leave out none."""
    time_power: float = 1.4
    """Flow times are 1 - u^this: above 1, noise is seen more often (paper: 1)."""
    batch_size: int = 16
    learning_rate: float = 1.5e-3
    ema_decay: float = 0.999
    held_out_samples: int = 256
    """Windows that the result is measured on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("given_share", "whole_views", "token_dropping", "whole_steps"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1")
        if self.token_dropping == 1 or not self.given_share or not 0.2 <= self.time_power <= 5:
            raise InputError(
                f"token_dropping is {self.token_dropping} (below 1), given_share {self.given_share} (above 0), "
                f"time_power {self.time_power} (0.2 to 5)"
            )
        if self.num_frames < TARGETS + 2:
            raise InputError(f"num_frames is {self.num_frames}; a window has {TARGETS + 2} frames")
        for name in ("stride", "feature_layers", "patch", "width", "depth", "heads", "held_out_samples"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if self.width % (4 * self.heads):
            raise InputError(f"width is {self.width}; it must be a multiple of 4 times the heads ({self.heads})")

    @classmethod
    def small(cls) -> Self:
        """toy-cage's numbers: 64 px, 8x8 cells, for a CPU."""
        return cls()

    @classmethod
    def paper(cls) -> Self:
        """The official code's numbers for BAIR as far as this network has them: 256 px, 16x16 cells, 12 blocks; for GPUs, with a VQ
        autoencoder (--autoencoder) and DINOv2 (--features)."""
        return cls(
            size=(256, 256), patch=1, width=768, depth=12, heads=8, feature_layers=2, given_share=0.1, whole_views=0.0, time_power=1.0,
            whole_steps=0.0, learning_rate=1e-4, ema_decay=0.9999,
        )  # fmt: skip

    def settings(self) -> Settings:
        """The loop's numbers; features of one's own are a first stage."""
        video = Stage(name=VIDEO, share=SHARES[VIDEO], groups={"main": Group(modules=("transformer",))})
        learnt = Group(modules=("control_encoder", "projection"), rate=2e-3 / self.learning_rate)
        stages = (Stage(name=FEATURES, share=SHARES[FEATURES], groups={"main": learnt}), video) if self.features == OWN else (video,)
        often = min(64, self.held_out_samples)
        return replace(
            super().settings(), betas=(0.9, 0.98), decay_share=0.4, stages=stages, held_out=self.held_out_samples, held_out_often=often,
            held_out_seed=7015,
        )  # fmt: skip

    def data_set(self, data: Path, kept: Path, events: Events = SILENT) -> ClipFolder:
        """Excerpts of the clips."""
        return ClipFolder.open(
            data,
            size=self.size,
            num_frames=self.num_frames,
            stride=self.stride,
            skip=self.skip,
            manifest=kept / NAME,
            captions=False,
            events=events,
        )

    def check(self, data: ClipFolder, events: Events = SILENT) -> None:
        """Tell what was found; refuse parts that can't be used before anything is written."""
        space = self.latents()
        self.grid(space.factor)
        self.encoder()
        spread = float(space.encode(data.rows([0])["clip"][0, :1]).std())
        if not LEAST_SPREAD <= spread <= 1.0 / LEAST_SPREAD:
            events.note(
                f"latents of the first frame have a standard deviation of {spread:.2g}, and noise has 1; such a model learns badly: divide "
                "scaling_factor in the autoencoder's config.json by it"
            )
        events.note(f"{len(data)} excerpts of {self.num_frames} frames, every frame of {self.stride} taken, fitted to {self.size}")

    def check_start(self, start: Path, data: Any, events: Events = SILENT) -> None:
        """Refuse another kind of model, another network, and features that the network doesn't know."""
        checkpoint = open_checkpoint(start)
        if checkpoint.role != "ComposableVideo":
            raise InputError(f"{start.name} is of the role {checkpoint.role}; begin with a ComposableVideo, such as toy-cage")
        if self.features == OWN:
            raise InputError(f"the checkpoint to begin with knows features of its own; give --features {start} too")
        found = read_json(checkpoint.parts["transformer"].folder / "config.json")
        for name in ("patch", "width", "depth", "heads"):
            if found.get(name) != getattr(self, name):
                raise InputError(f"the checkpoint to begin with has {name} {found.get(name)}, and {getattr(self, name)} was asked for")
        known = load(str(start), device="cpu", dtype="float32")
        if known.size != self.size:
            raise InputError(f"the checkpoint to begin with makes {known.size}, and size is {self.size}")
        for name, own, asked in (("features", "control_encoder", self.encoder()), ("autoencoder", "vae", self.latents().vae)):
            if asked is None or not _same(known.modules[own], asked):
                raise InputError(f"the checkpoint to begin with knows other {name} than {getattr(self, name)}; give --{name} {start}")

    def build(self, data: Any, *, seed: int, start: Path | None = None) -> TraineeCAGE:
        """The network, from a checkpoint folder or from random weights."""
        space, encoder = self.latents(), self.encoder()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = ControlEncoder() if encoder is None else encoder
            if start is not None:
                transformer = load(str(start), device="cpu", dtype="float32").transformer.requires_grad_(True).train()
            else:
                transformer = ControlledVideoTransformer(
                    latent_channels=space.channels, grid=self.grid(space.factor), patch=self.patch, width=self.width, depth=self.depth,
                    heads=self.heads, feature_width=feature_width(made, self.feature_layers),
                )  # fmt: skip
            return TraineeCAGE(transformer, made, space, layers=self.feature_layers, given=encoder is not None)

    def latents(self) -> LatentSpace:
        """The autoencoder.

        Raises:
            InputError: a checkpoint without one.
        """
        space = getattr(load(self.autoencoder, device="cpu", dtype="float32"), "latent_space", None)
        if not isinstance(space, LatentSpace):
            raise InputError(f"autoencoder: {self.autoencoder} has none; take toy-vae-wide, or a folder of an AutoencoderKL or a VQModel")
        return space

    def encoder(self) -> nn.Module | None:
        """The encoder of control features that is given; None for one that is learnt.

        Raises:
            InputError: it is no checkpoint of this method and no DINOv2 model.
        """
        if self.features == OWN:
            return None
        folder = Path(self.features).expanduser()
        if (folder / "config.json").is_file() and read_json(folder / "config.json").get("model_type") == "dinov2":
            from transformers import Dinov2Model

            dino: nn.Module = Dinov2Model.from_pretrained(folder, local_files_only=True)
            return dino.eval()
        model = load(self.features, device="cpu", dtype="float32")
        if model.role != "ComposableVideo":
            raise InputError(f"features: {self.features} is of the role {model.role}; give `own`, a checkpoint of cage or a DINOv2 folder")
        found: nn.Module = model.modules["control_encoder"]
        return found

    def grid(self, factor: int) -> tuple[int, int]:
        """(rows, columns) of cells.

        Raises:
            InputError: the size isn't a whole number of them.
        """
        side = factor * self.patch
        if any(length % side or not length for length in self.size):
            raise InputError(f"size is {self.size}; its sides must be multiples of {side} (the autoencoder's {factor}, patch {self.patch})")
        return self.size[0] // side, self.size[1] // side

    def source(self, trainee: TraineeCAGE, data: FolderData, device: str) -> ControlledBatches:
        """Windows of the excerpts; frames are encoded once, and kept."""
        space = LatentSpace(trainee.latent_space.vae.to(device), torch.device(device))
        chunks = clip_latents(data, space, pixels=True)
        return self.batches(trainee, chunks, device)

    def batches(self, trainee: TraineeCAGE, chunks: Chunks, device: str) -> ControlledBatches:
        """Windows of clips that are encoded already."""
        rows, columns = trainee.transformer.config.grid
        return ControlledBatches(chunks, self, grid=(rows, columns), device=device)

    @torch.no_grad()
    def draw(self, trainee: TraineeCAGE, source: ControlledBatches, path: Path) -> list[Path]:
        """Rows of a reference, three true frames, and three that were made of it and of a quarter of the true frames' features."""
        from calotype.train.sample_grids import save_grid

        batch = source.batch(range(8), BatchRng(0, 0, range(8), 8), augment=False)
        pixels = batch["pixels"]
        features = trainee.features(pixels.flatten(0, 1) * 2.0 - 1.0).unflatten(0, pixels.shape[:2])
        known = Known(batch["latents"][:, 1:2], batch["offsets"][:, 1:2])
        controls = Controls(features, (batch["chance"] < 0.25).float())
        made = integrate(trainee.transformer, lambda step: known, controls, batch["noise"], joint_times(10))
        space = LatentSpace(trainee.latent_space.vae, batch["latents"].device)
        shown = torch.cat(
            [space.decode(batch["latents"][:, 1])[:, None], pixels, space.decode(made.flatten(0, 1)).unflatten(0, (8, -1))], 1
        )
        return [save_grid(shown.flatten(0, 1).cpu(), shown.shape[1], path, scale=2)]

    def write(self, trainee: TraineeCAGE, folder: Path, *, rounded: bool = False) -> None:
        """See `calotype.backbones.composable_video`; `rounded` keeps 8 bits a weight."""
        save_parts(
            folder, transformer=trainee.transformer, control_encoder=trainee.control_encoder, vae=trainee.latent_space.vae, size=self.size,
            targets=TARGETS, stride=self.stride, feature_layers=self.feature_layers, rounded=rounded,
        )  # fmt: skip


def _same(first: nn.Module, second: nn.Module) -> bool:
    """Whether two networks have the same weights, but for the rounding of files."""
    kept, other = first.state_dict(), second.state_dict()
    return kept.keys() == other.keys() and all(
        kept[name].shape == other[name].shape and bool((kept[name] - other[name]).norm() <= 0.01 * other[name].norm()) for name in kept
    )
