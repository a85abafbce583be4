"""The bi-level fit: perturbators and a surrogate segmenter that go down one loss in turns, resumable to the bit after any step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from calotype.core.events import SILENT, Events
from calotype.data.windows import Pictures, SegmentationWindows
from calotype.errors import CalotypeError, InputError
from calotype.methods.umed.generators import Perturbation
from calotype.train.loop import accelerator_for
from calotype.train.optimizers import Batch, Optimizers
from calotype.train.precision import precision_for
from calotype.train.recipe import Settings
from calotype.train.rng import BatchRng
from calotype.train.segmentation_batches import SegmentationLoss, channels_last
from calotype.train.stages import Group, Stage

Carriers = Literal["shuffled", "own"]
PERTURBATION, SURROGATE = "perturbation", "surrogate"
STATE = "umed-fit"
SAVE_EVERY = 20
"""Steps between the states that are offered for resuming."""
REPORT_EVERY = 20
ROWS = 16
"""Windows that are drawn at once."""
NEAR_FOREGROUND = 0.75
"""Share of the windows that lie about a pixel of the foreground."""


class BiLevel(nn.Module):
    """min over perturbations of min over the surrogate of its loss on perturbed pictures (Huang et al. 2021, eq. 2), one of them a step.

    Args:
        perturbation: what draws.
        surrogate: a segmenter that gives logits.
        surrogate_every: every so many steps the surrogate moves, else the perturbation.
        carriers: `shuffled` shows the surrogate picture j with the perturbation of picture i and asks for the mask of i: nothing but the
            perturbation tells it. `own` shows picture i.
    """

    def __init__(self, perturbation: Perturbation, surrogate: nn.Module, *, surrogate_every: int, carriers: Carriers) -> None:
        super().__init__()
        self.perturbation, self.surrogate, self.loss = perturbation, surrogate, SegmentationLoss()
        self.surrogate_every, self.carriers = surrogate_every, carriers

    def forward(self, batch: Batch) -> Float[Tensor, " rows"]:
        """The surrogate's loss on each perturbed picture."""
        delta = self.perturbation(batch["image"], batch["mask"])
        carrier = batch["image"]
        if self.carriers == "shuffled":
            # Neighbours in the order may be slices of one patient.
            carrier = carrier.roll(max(1, len(carrier) // 2), dims=0)
        seen = (carrier + delta).clamp(0, 1)
        logits = self.surrogate(channels_last(turned(seen, batch["turn"])))
        found: Tensor = self.loss(logits, turned(batch["mask"][:, None], batch["turn"])[:, 0])
        return found

    def training_step(self, batch: Batch, optimizers: Optimizers) -> None:
        """One step of one of the two."""
        optimizers.update(SURROGATE if optimizers.step % self.surrogate_every == 0 else PERTURBATION, batch, self)


def fit(
    trainee: BiLevel,
    data: Pictures,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    window: tuple[int, int],
    seed: int,
    device: str = "auto",
    events: Events = SILENT,
) -> Perturbation:
    """Fit the perturbation in place; an interrupted fit goes on from the state that `events` kept, to the same bits.

    Args:
        trainee: both sides, with their weights.
        data: at least two rows.
        steps: of either side together.
        batch_size: windows of a step.
        learning_rate: Adam's, of both sides.
        window: sides of what a step sees of a picture.
        seed: of the order and of the windows.
        device: `auto`, `cpu` or `cuda`.
        events: hears a step for each and the metrics `loss` and `loss_surrogate`.

    Returns:
        The perturbation on the CPU, in evaluation mode.

    Raises:
        InputError: too few pictures.
        CalotypeError: the fit diverged.
    """
    if len(data) < 2:
        raise InputError(f"data: there is {len(data)} picture; a fit needs two or more")
    accelerator = accelerator_for(device)
    groups = {name: Group(modules=(name,)) for name in (PERTURBATION, SURROGATE)}
    settings = Settings(
        batch_size=batch_size, learning_rate=learning_rate, betas=(0.9, 0.999), weight_decay=0.0, warmup_steps=0, decay_share=0.0
    )
    trainee = trainee.to(accelerator.device).train()
    optimizers = Optimizers(
        trainee, Stage(groups=groups), settings, whole=frozenset(name for name, _ in trainee.named_parameters()), accelerator=accelerator,
        precision=precision_for(accelerator.device), reduced=False,
    )  # fmt: skip
    size = min(batch_size, len(data))
    windows = SegmentationWindows(data, window, foreground=NEAR_FOREGROUND, stream=(seed, 0))
    begun = _restored(events.load_state(STATE), trainee, optimizers)
    events.stage("fit the perturbation", steps)
    events.step(begun)
    for step in range(begun, steps):
        batch = windows.rows(range(step * size, (step + 1) * size))
        turn = 8 * BatchRng(seed, step, range(1), 1).uniform()
        batch["turn"] = turn.long().expand(size)
        optimizers.at(step, step / steps, learning_rate)
        try:
            trainee.training_step({name: values.to(accelerator.device) for name, values in batch.items()}, optimizers)
        except FloatingPointError as error:
            raise CalotypeError(f"the fit diverged at step {step} ({error}); take a lower learning_rate than {learning_rate:g}") from None
        if step % REPORT_EVERY == REPORT_EVERY - 1:
            for name, value in optimizers.report().items():
                events.metric(name, value)
        events.step()
        if step % SAVE_EVERY == SAVE_EVERY - 1:
            events.save_state(STATE, _state(trainee, optimizers, step + 1))
        events.check()
    trainee.requires_grad_(False)
    return trainee.perturbation.cpu().eval()


def turned(values: Float[Tensor, "rows channels height width"], turn: Int[Tensor, " rows"]) -> Float[Tensor, "rows channels height width"]:
    """One of the eight positions of a square for a whole batch, by the number 0 to 7 that all rows have; mirrored alone where sides differ.

    Whoever trains on the pictures turns them as well, and what isn't noise in all positions is learnt late.
    """
    number = int(turn[0])
    axes = [axis for bit, axis in ((1, 2), (2, 3)) if number & bit]
    values = values.flip(axes) if axes else values
    return values.transpose(2, 3) if number & 4 and values.shape[2] == values.shape[3] else values


def perturb(
    perturbation: Perturbation, image: Float[Tensor, "channels height width"], mask: Int[Tensor, "height width"], window: tuple[int, int]
) -> Float[Tensor, "channels height width"]:
    """What is added to one picture of any size, on the CPU: drawn in windows like those of the fit, side by side.

    The networks' features are normalised over what they see, so that a whole picture would be drawn otherwise than the fit was.
    """
    height, width = mask.shape
    delta = torch.zeros_like(image)
    corners = [(top, left) for top in _starts(height, window[0]) for left in _starts(width, window[1])]
    parts = [(slice(top, top + window[0]), slice(left, left + window[1])) for top, left in corners]
    drawn_parts = [part for part in parts if bool((mask[part] > 0).any())]
    for first in range(0, len(drawn_parts), ROWS):
        some = drawn_parts[first : first + ROWS]
        with torch.no_grad():
            drawn = perturbation(
                torch.stack([image[:, rows, columns] for rows, columns in some]), torch.stack([mask[part] for part in some])
            )
        for (rows, columns), values in zip(some, drawn, strict=True):
            delta[:, rows, columns] = values
    return delta


def _starts(side: int, want: int) -> list[int]:
    """Where windows begin that cover a side; the last one ends with it.

    >>> _starts(10, 4)
    [0, 4, 6]
    """
    return [*range(0, side - want, want), side - want]


def _state(trainee: nn.Module, optimizers: Optimizers, step: int) -> dict[str, Tensor]:
    """Copies, since the next step changes what they are of."""
    found = {f"model.{name}": value for name, value in trainee.state_dict().items()}
    for group, optimizer in optimizers.inner.items():
        for number, values in optimizer.state_dict()["state"].items():
            found.update({f"optimizer.{group}.{number}.{name}": value for name, value in values.items()})
    return {"step": torch.tensor(step), **{name: value.detach().cpu().clone() for name, value in found.items()}}


def _restored(state: Mapping[str, Tensor] | None, trainee: nn.Module, optimizers: Optimizers) -> int:
    """Put a state back; the number of steps that it has behind it."""
    if state is None:
        return 0
    trainee.load_state_dict({name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")})
    for group, optimizer in optimizers.inner.items():
        found: dict[int, dict[str, Tensor]] = {}
        for name, value in state.items():
            if name.startswith(prefix := f"optimizer.{group}."):
                number, _, what = name.removeprefix(prefix).partition(".")
                found.setdefault(int(number), {})[what] = value
        optimizer.load_state_dict({"state": found, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(state["step"])
