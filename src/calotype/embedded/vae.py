"""The recipes of `toy-vae` and `toy-vae-wide`: the toy family's autoencoders, with latents of unit covariance."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calotype.backbones.folder import INT8, ROUNDED, open_checkpoint
from calotype.backbones.loading import load_rounded_network
from calotype.backbones.quantized import save_quantized
from calotype.core.events import Events
from calotype.embedded import networks
from calotype.embedded.card import Card, Gate
from calotype.embedded.validation_vae import covariance
from calotype.embedded.worlds import WORLDS, paint_mix
from calotype.train.recipe import Settings
from calotype.train.rng import BatchRng

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


class TraineeVAE(nn.Module):
    """Loss of one picture: mean |error| + 2 x mean square + 0.5 x mean |error of the picture's differences| + `KL` x divergence
    from N(0, 1) a latent number + `COVARIANCE` x squared distance of the batch's latent covariance from the identity.

    The last term does most of what a strong KL term does (it keeps the channels at unit variance and uncorrelated) without its noise.
    """

    KL, COVARIANCE = 0.001, 0.02

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, batch: Mapping[str, Tensor]) -> Float[Tensor, " batch"]:
        """`pixels` [B, 3, H, W] in [-1, 1]; `noise` [B, 4, h, w]; `regularise` [B], 1 in training and 0 for the held-out loss."""
        pixels, weight = batch["pixels"], batch["regularise"]
        posterior = self.vae.encode(pixels).latent_dist
        mean, log_variance = posterior.mean.float(), posterior.logvar.float()
        latents = mean + weight.view(-1, 1, 1, 1) * torch.exp(0.5 * log_variance) * batch["noise"]
        error = self.vae.decode(latents).sample.float() - pixels
        loss = error.abs().flatten(1).mean(1) + 2.0 * error.square().flatten(1).mean(1)
        loss = loss + 0.25 * (error.diff(dim=-1).abs().flatten(1).mean(1) + error.diff(dim=-2).abs().flatten(1).mean(1))
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).flatten(1).mean(1)
        spread = covariance(mean) - torch.eye(mean.shape[1], device=mean.device)
        losses: Tensor = loss + weight * (self.KL * divergence + self.COVARIANCE * spread.square().sum())
        return losses


class Pictures:
    """Single pictures of one or several worlds in turn, painted as they are needed."""

    count = 1_000_000

    def __init__(self, split: str, seed: int, device: str, latent_shape: tuple[int, int, int], worlds: Sequence[str] = ("scenes",)) -> None:
        self.split, self.seed, self.device, self.latent_shape, self.worlds = split, seed, device, latent_shape, worlds

    def pixels(self, rows: Sequence[int]) -> Float[Tensor, "rows 3 64 64"]:
        """Pictures in [-1, 1]."""
        return paint_mix(self.worlds, split=self.split, seed=self.seed, rows=rows).to(self.device) * 2.0 - 1.0

    def batch(self, rows: Sequence[int], rng: BatchRng, *, augment: bool) -> dict[str, Tensor]:
        noise = rng.normal(self.latent_shape)
        made = {"pixels": self.pixels(rows), "noise": noise, "regularise": torch.full((len(rows),), 1.0 if augment else 0.0)}
        return {name: tensor.to(self.device) for name, tensor in made.items()}


class VAERecipe:
    """64 px pictures of the world's `small` preset."""

    name = "toy-vae"
    settings = Settings(
        batch_size=16, cuda_batch_size=64, learning_rate=2e-3, warm_learning_rate=3e-4, decay_share=0.4, ema_decay=0.995, weight_decay=0.0,
        sheet_batches=1, export_batches=60,
    )  # fmt: skip
    gates: tuple[Gate, ...] = (Gate("psnr_db", 29.0), Gate("latent_condition", 2.0, at_most=True))
    card = Card(
        about="The toy family's autoencoder: 64 px to 16x16x4 latents of mean 0 and unit covariance (`scaling_factor` 1).",
        library="diffusers",
    )
    config: Mapping[str, Any] = {}
    """Changes to the network's config (tests make it narrower)."""
    worlds: tuple[str, ...] = ("scenes",)
    """What its pictures are of: names of `WORLDS`."""
    rounded = False
    """Whether its weights are shipped in 8 bits."""

    def build(self, *, seed: int, start: Path | None, checkpoints: Path) -> TraineeVAE:
        """The autoencoder, from an exported folder or from random weights."""
        if start is None:
            return TraineeVAE(networks.seeded(seed, lambda: networks.autoencoder(**self.config)))
        return TraineeVAE(load_autoencoder(start))

    def source(
        self, trainee: nn.Module, *, split: str, seed: int, folder: Path, checkpoints: Path, start: Path | None, device: str
    ) -> Pictures:
        """Pictures of a split."""
        return Pictures(split, seed, device, (4, networks.SIZE // 4, networks.SIZE // 4), self.worlds)

    def sample_grid(self, trainee: TraineeVAE, source: Pictures, path: Path) -> list[Path]:
        """Pictures (upper rows) above their reconstructions (lower rows)."""
        from calotype.train.sample_grids import save_grid

        pixels = source.pixels(range(16))
        with torch.no_grad():
            made = trainee.vae(pixels).sample
        rows = torch.cat([torch.cat([pixels[i : i + 8], made[i : i + 8]]) for i in (0, 8)])
        return [save_grid(rows / 2 + 0.5, 8, path)]

    def export(self, trainee: TraineeVAE, source: Pictures, folder: Path) -> None:
        """The autoencoder with its latents whitened (see `whiten`), unless they were not trained."""
        whitened = whiten(trainee.vae, source) if trainee.vae.quant_conv.weight.requires_grad else copy.deepcopy(trainee.vae).float()
        if self.rounded:
            whitened.save_config(folder)
            save_quantized(whitened.state_dict(), folder / ROUNDED)
        else:
            whitened.to(torch.float16).save_pretrained(folder, safe_serialization=True)

    def validate(self, folder: Path, *, seed: int, count: int | None, device: str, events: Events) -> dict[str, float]:
        """See `validation_vae`."""
        from calotype.embedded.validation_vae import validate

        return validate(folder, worlds=self.worlds, seed=seed, count=count, device=device, events=events)


class WideVAERecipe(VAERecipe):
    """64 px pictures of every world that has a painter, in equal shares: the latents in which the models of these worlds work."""

    name = "toy-vae-wide"
    settings = replace(VAERecipe.settings, warm_learning_rate=1e-3)
    worlds = tuple(WORLDS)
    gates = (*(Gate(f"psnr_db_{world}", 29.0) for world in WORLDS), Gate("latent_condition", 2.0, at_most=True))
    card = Card(
        about="The toy family's autoencoder for all worlds (scenes, stained tissue, creatures, portraits, critters, landscapes): 64 px to "
        "16x16x4 latents of mean 0 and unit covariance (`scaling_factor` 1). It began as `toy-vae`; weights in 8 bits.",
        data="six worlds in equal shares, 64 px",
    )
    rounded = True

    def build(self, *, seed: int, start: Path | None, checkpoints: Path) -> TraineeVAE:
        """The autoencoder, from an exported folder, from `toy-vae` where that was trained, or from random weights.

        From an exported folder only the decoder is trained: other models stand on the latents, which therefore stay as they are.
        """
        narrow = checkpoints / VAERecipe.name
        trainee = super().build(seed=seed, start=narrow if start is None and narrow.is_dir() else start, checkpoints=checkpoints)
        for part in (trainee.vae.encoder, trainee.vae.quant_conv):
            part.requires_grad_(start is None)
        return trainee


def load_autoencoder(folder: Path) -> AutoencoderKL:
    """An exported autoencoder in float32, for training to go on."""
    from diffusers import AutoencoderKL

    part = next(iter(open_checkpoint(folder).parts.values()))
    made: AutoencoderKL
    if part.variant == INT8:
        made = load_rounded_network(part)
    else:
        made = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32)
    return made


def whiten(vae: AutoencoderKL, source: Pictures, count: int = 2048) -> AutoencoderKL:
    """A copy whose latent channels have mean 0 and the identity as covariance, and whose decoder undoes it: pictures come out the same.

    The map z -> W (z - m) with W = covariance^(-1/2) (ZCA) is folded into the two 1x1 convolutions at the latents, exactly.
    """
    vae = copy.deepcopy(vae).float()
    with torch.no_grad():
        latents = torch.cat(
            [vae.encode(source.pixels(range(start, start + 64))).latent_dist.mean.double() for start in range(0, count, 64)]
        )
        mean = latents.mean((0, 2, 3))
        flat = latents.transpose(0, 1).flatten(1) - mean[:, None]
        values, vectors = torch.linalg.eigh(flat @ flat.T / (flat.shape[1] - 1))
        forward = vectors @ torch.diag(values.rsqrt()) @ vectors.T
        backward = vectors @ torch.diag(values.sqrt()) @ vectors.T
        channels = mean.numel()
        quant, post = vae.quant_conv, vae.post_quant_conv
        weight, bias = quant.weight.double().flatten(1), quant.bias.double()
        weight[:channels], bias[:channels] = forward @ weight[:channels], forward @ (bias[:channels] - mean)
        bias[channels:] = bias[channels:] + 2.0 * forward.diagonal().log()
        quant.weight.copy_(weight.view_as(quant.weight))
        quant.bias.copy_(bias)
        weight = post.weight.double().flatten(1)
        post.bias.copy_(post.bias.double() + weight @ mean)
        post.weight.copy_((weight @ backward).view_as(post.weight))
    return vae
