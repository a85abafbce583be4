"""What the training loop asks of a recipe. A recipe says what is trained on what; the loop says when, and keeps it safe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from calotype.core.events import Events
from calotype.train.rng import BatchRng
from calotype.train.stages import Stage


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The loop's numbers for one recipe."""

    batch_size: int = 32
    cuda_batch_size: int = 256
    """A GPU is idle on small batches; the learning rate stays."""
    micro_batch_size: int | None = None
    """Rows whose gradients are computed at once, where the memory doesn't hold a whole batch; None is all of them."""
    learning_rate: float = 8e-4
    """Peak, when training starts from random weights."""
    warm_learning_rate: float = 2e-4
    """Peak, when training goes on from shipped weights."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon`: orthogonalised momentum for the hidden matrices, AdamW for the rest; see `calotype.train.muon`."""
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    warmup_steps: int = 100
    decay_share: float = 0.3
    """The share of the budget, at its end, over which the learning rate falls to 0."""
    ema_decay: float = 0.998
    max_grad_norm: float = 1.0
    held_out: int = 1024
    """Samples of the `tune` split that the moving average's loss is measured on."""
    held_out_often: int = 128
    """How many of them the measurements on the way use."""
    held_out_seed: int = 7001
    sheet_batches: int = 25
    """What a sheet of samples costs, in held-out batches, roughly: a budget of time reserves it."""
    export_batches: int = 1
    """What the export costs, in held-out batches, roughly; more where it computes something."""
    stages: tuple[Stage, ...] = (Stage(),)
    """One after the other; each begins with the moving average of the one before."""


class Source(Protocol):
    """Samples by number. The same number always gives the same sample."""

    count: int
    """How many different samples there are."""

    def batch(self, rows: Sequence[int], rng: BatchRng, *, augment: bool) -> dict[str, Tensor]:
        """The inputs of `Trainee.forward` on the training device, first dimension len(rows).

        `augment` is true in training and false for the held-out loss: noise levels and noise are drawn either way, dropout of
        conditions and the like only in training.
        """
        ...


Sheet = Callable[[Any, Any, Path], list[Path]]
"""Draws what a trainee can do today with a source's samples; returns the files written (the path with a suffix)."""


class Recipe(Protocol):
    """One embedded model's training. Constructed without arguments; holds no tensors."""

    name: str
    settings: Settings

    def build(self, *, seed: int, start: Path | None, checkpoints: Path) -> nn.Module:
        """What is trained, as a module whose `forward(batch)` gives the loss of each sample, [B].

        `start` is an exported folder to start from; None means weights from `seed`, and from the models in `checkpoints` that this one is
        built on. All its parameters are trained unless
        `requires_grad` is false.
        """
        ...

    def source(
        self, trainee: nn.Module, *, split: str, seed: int, folder: Path, checkpoints: Path, start: Path | None, device: str
    ) -> Source:
        """The samples of a split (`train` or `tune`). `folder` is the run's data folder, for what is worth keeping.

        Raises:
            MissingError: a model that this one is built on has not been trained yet.
        """
        ...

    def sample_grid(self, trainee: nn.Module, source: Source, path: Path) -> list[Path]:
        """Draw what the model can do today; returns the files written (`path` with a suffix)."""
        ...

    def export(self, trainee: nn.Module, source: Source, folder: Path) -> None:
        """Write the folder that `calotype.load` and diffusers read, weights as fp16 safetensors, without the card."""
        ...

    def validate(self, folder: Path, *, seed: int, count: int | None, device: str, events: Events) -> Mapping[str, float]:
        """The gates' figures of an exported folder on scenes of the `eval` split."""
        ...
