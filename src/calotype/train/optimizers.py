"""The optimisers of a training: one for the whole network, several in turn (a GAN, a bi-level problem), others in each stage."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from calotype.errors import InputError
from calotype.train.budget import learning_rate_share
from calotype.train.muon import Muon
from calotype.train.precision import Precision
from calotype.train.recipe import Settings
from calotype.train.stages import Group, Stage

if TYPE_CHECKING:
    from accelerate import Accelerator

Batch = dict[str, Tensor]


class Optimizers:
    """The optimisers of one stage, each with its own parameters, gradients and learning rate.

    A trainee's `training_step(batch, optimizers)` calls `update` once for each that takes a step. One without a `training_step` has one
    optimiser, and its `forward` is the loss.

    Args:
        trainee: whose parameters are trained; it is on its device.
        stage: which of them, in which groups.
        settings: of the training.
        whole: names of the parameters that may be trained at all.
        reduced: whether something else sums the gradients over processes (a wrapped model does).

    Raises:
        InputError: a group names nothing that can be trained.
    """

    def __init__(
        self,
        trainee: nn.Module,
        stage: Stage,
        settings: Settings,
        *,
        whole: frozenset[str],
        accelerator: Accelerator,
        precision: Precision,
        reduced: bool,
    ) -> None:
        self.stage, self.settings, self.accelerator, self.reduced = stage, settings, accelerator, reduced
        self.step = 0
        """Steps of this stage before this one."""
        self.losses: dict[str, list[float]] = {}
        """What `update` was told since `report`, by group."""
        self._parameters: dict[str, list[nn.Parameter]] = {}
        self._made: dict[str, Any] = {}
        for name, parameter in trainee.named_parameters():
            parameter.requires_grad_(name in whole and any(group.has(name) for group in stage.groups.values()))
        for name, group in stage.groups.items():
            named = [(key, value) for key, value in trainee.named_parameters() if value.requires_grad and group.has(key)]
            if not named:
                raise InputError(f"stage {stage.name}: the optimiser {name} has nothing to train in {', '.join(group.modules)}")
            self._parameters[name] = [value for _, value in named]
            self._made[name] = accelerator.prepare(_optimizer(named, group, settings, precision))

    @property
    def inner(self) -> dict[str, torch.optim.Optimizer]:
        """torch's optimisers by group, for saving and loading."""
        return {name: getattr(made, "optimizer", made) for name, made in self._made.items()}

    @property
    def rate(self) -> float:
        """The first group's learning rate."""
        rate: float = next(iter(self._made.values())).param_groups[0]["lr"]
        return rate

    def at(self, step: int, progress: float, peak: float) -> None:
        """Set the learning rates of a step of the stage; `progress` is the stage's, 0 to 1."""
        self.step = step
        share = learning_rate_share(progress, step, warmup_steps=self.settings.warmup_steps, decay_share=self.settings.decay_share)
        for name, made in self._made.items():
            for group in made.param_groups:
                group["lr"] = peak * share * self.stage.groups[name].rate

    def update(self, name: str, batch: Batch, loss: Callable[[Batch], Tensor]) -> float:
        """One step of an optimiser down the mean of a loss; nothing but its own parameters gets gradients.

        Args:
            name: of the group.
            batch: tensors whose first dimension is the rows'. Where `Settings.micro_batch_size` is less, the gradients of parts are added.
            loss: of a batch or a part of it: [rows], or one number.

        Returns:
            The loss.

        Raises:
            FloatingPointError: the loss or the gradients are no numbers any more; nothing was changed.
        """
        made, mine = self._made[name], self._parameters[name]
        own = {id(parameter) for parameter in mine}
        others = [parameter for group in self._parameters.values() for parameter in group if id(parameter) not in own]
        for parameter in others:
            parameter.requires_grad_(False)
        try:
            value = self._backward(batch, loss)
        finally:
            for parameter in others:
                parameter.requires_grad_(True)
        if not self.reduced and self.accelerator.num_processes > 1:
            for parameter in mine:
                if parameter.grad is not None:
                    parameter.grad = self.accelerator.reduce(parameter.grad, reduction="mean")
        limit = self.stage.groups[name].max_grad_norm
        norm = self.accelerator.clip_grad_norm_(mine, self.settings.max_grad_norm if limit is None else limit)
        found = float(self.accelerator.reduce(value, reduction="mean"))
        if not math.isfinite(found) or not math.isfinite(float(norm)):
            raise FloatingPointError(f"loss {found}")
        made.step()
        made.zero_grad(set_to_none=True)
        self.losses.setdefault(name, []).append(found)
        return found

    def report(self) -> dict[str, float]:
        """The mean losses since the last report: `loss` is the first group's, the others' are `loss_` and their names."""
        means = {name: sum(values) / len(values) for name, values in self.losses.items() if values}
        self.losses.clear()
        return {"loss" if name == next(iter(self.stage.groups)) else f"loss_{name}": value for name, value in means.items()}

    def _backward(self, batch: Batch, loss: Callable[[Batch], Tensor]) -> Tensor:
        """The detached mean loss, its gradients added to the parameters'."""
        rows, size = len(next(iter(batch.values()))), self.settings.micro_batch_size
        if size is None or size >= rows:
            return self._part(batch, loss, 1.0, last=True)
        found = torch.zeros(())
        for first in range(0, rows, size):
            part = {name: values[first : first + size] for name, values in batch.items()}
            share = min(size, rows - first) / rows
            value = self._part(part, loss, share, last=first + size >= rows)
            found = found.to(value.device) + share * value
        return found

    def _part(self, batch: Batch, loss: Callable[[Batch], Tensor], share: float, *, last: bool) -> Tensor:
        waiting: AbstractContextManager[None] = nullcontext()
        if not last and self.reduced and isinstance(loss, nn.Module):
            waiting = self.accelerator.no_sync(loss)
        with waiting:
            # A wrapped model computes in the training's precision by itself.
            with nullcontext() if self.reduced else self.accelerator.autocast():
                value = loss(batch)
                value = value.mean() if self.reduced else value.float().mean()
            self.accelerator.backward(value if share == 1.0 else value * share)
        return value.detach()


def _optimizer(named: list[tuple[str, nn.Parameter]], group: Group, settings: Settings, precision: Precision) -> torch.optim.Optimizer:
    numbers: dict[str, Any] = {
        "lr": settings.learning_rate,
        "betas": group.betas or settings.betas,
        "weight_decay": settings.weight_decay if group.weight_decay is None else group.weight_decay,
    }
    if (group.optimizer or settings.optimizer) == "muon":
        return Muon(named, dtype=precision.dtype, **numbers)
    return torch.optim.AdamW([value for _, value in named], fused=True, **numbers)


def bounds(stages: tuple[Stage, ...]) -> list[float]:
    """Where in the budget each stage ends, 0 to 1.

    >>> bounds((Stage(share=1.0), Stage(share=3.0)))
    [0.25, 1.0]
    """
    whole = sum(stage.share for stage in stages)
    ends = [sum(stage.share for stage in stages[: number + 1]) / whole for number in range(len(stages))]
    return [*ends[:-1], 1.0]
