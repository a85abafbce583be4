"""The bi-level fit: perturbators and a surrogate segmenter that go down one loss in turns, resumable to the bit after any step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from calotype.core.events import SILENT, Events
from calotype.data.windows import Pictures, SegmentationWindows
from calotype.errors import CalotypeError, InputError
from calotype.methods.umed.generators import Perturbation
from calotype.metrics.segmentation import dice
from calotype.train.loop import accelerator_for
from calotype.train.optimizers import Batch, Optimizers
from calotype.train.precision import precision_for
from calotype.train.recipe import Settings
from calotype.train.rng import BatchRng
from calotype.train.segmentation_batches import SegmentationLoss, channels_last
from calotype.train.segmenter import fit_segmenter, predict

if TYPE_CHECKING:
    from accelerate import Accelerator
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
VICTIM_WINDOWS, VICTIM_STEPS = 192, 200
"""That the victim of a try is trained on. After 100 steps victims of good and of bad fits can't be told apart, after 200 they can."""


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


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How perturbators are fitted.

    Which pattern a fit ends in is decided within its first steps by the weights that it began with, and patterns protect very differently:
    on the split `tune` a third of the fits leaves a victim a Dice of 0.25, and the others 0.4 to 0.75. So several fits are begun, a victim
    is trained for a short while on what each one draws, and the fit whose victim finds least in the same clean pictures goes on.
    """

    steps: int
    """Of the fit that goes on, perturbation and surrogate together."""
    batch_size: int
    learning_rate: float
    """Adam's, of both sides."""
    tries: int = 1
    """Fits that are begun."""
    try_steps: int = 60
    """Steps of each before its victim is trained."""

    @property
    def begun(self) -> int:
        """Steps before a victim is trained, at most all."""
        return min(self.try_steps, self.steps)

    @property
    def all_steps(self) -> int:
        """Of all tries, and of what follows the best one."""
        return self.tries * self.begun + self.steps - self.begun


def fit(
    make: Callable[[int], BiLevel],
    data: Pictures,
    numbers: Fit,
    *,
    window: tuple[int, int],
    seed: int,
    device: str = "auto",
    events: Events = SILENT,
) -> Perturbation:
    """Fit a perturbation; an interrupted fit goes on from the state that `events` kept, to the same bits.

    Args:
        make: both sides with the weights that a try of that number begins with.
        data: at least two rows.
        numbers: steps, rates and tries.
        window: sides of what a step sees of a picture.
        seed: of the order and of the windows.
        device: `auto`, `cpu` or `cuda`.
        events: hears a step for each, the metrics `loss` and `loss_surrogate`, and of each of several tries `victim_dice`.

    Returns:
        The perturbation on the CPU, in evaluation mode.

    Raises:
        InputError: too few pictures.
        CalotypeError: the fit diverged.
    """
    if len(data) < 2:
        raise InputError(f"data: there is {len(data)} picture; a fit needs two or more")
    run = _Run(make, data, numbers, window, seed, accelerator_for(device), events)
    run.go()
    return run.fitted.trainee.requires_grad_(False).perturbation.cpu().eval()


class _Fitted:
    """A pair of networks with its optimisers and the steps behind it."""

    def __init__(self, trainee: BiLevel, numbers: Fit, accelerator: Accelerator) -> None:
        groups = {name: Group(modules=(name,)) for name in (PERTURBATION, SURROGATE)}
        settings = Settings(
            batch_size=numbers.batch_size, learning_rate=numbers.learning_rate, betas=(0.9, 0.999), weight_decay=0.0, warmup_steps=0,
            decay_share=0.0,
        )  # fmt: skip
        self.trainee = trainee.to(accelerator.device).train()
        self.optimizers = Optimizers(
            self.trainee, Stage(groups=groups), settings, whole=frozenset(name for name, _ in self.trainee.named_parameters()),
            accelerator=accelerator, precision=precision_for(accelerator.device), reduced=False,
        )  # fmt: skip
        self.step = 0

    def state(self) -> dict[str, Tensor]:
        """Copies, since the next step changes what they are of."""
        found = {f"model.{name}": value for name, value in self.trainee.state_dict().items()}
        for group, optimizer in self.optimizers.inner.items():
            for number, values in optimizer.state_dict()["state"].items():
                found.update({f"optimizer.{group}.{number}.{name}": value for name, value in values.items()})
        return {"step": torch.tensor(self.step), **{name: value.detach().cpu().clone() for name, value in found.items()}}

    def restore(self, state: Mapping[str, Tensor]) -> Self:
        """Put a state back."""
        self.trainee.load_state_dict({name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")})
        for group, optimizer in self.optimizers.inner.items():
            found: dict[int, dict[str, Tensor]] = {}
            for name, value in state.items():
                if name.startswith(prefix := f"optimizer.{group}."):
                    number, _, what = name.removeprefix(prefix).partition(".")
                    found.setdefault(int(number), {})[what] = value
            optimizer.load_state_dict({"state": found, "param_groups": optimizer.state_dict()["param_groups"]})
        self.step = int(state["step"])
        return self


class _Run:
    """The tries one after the other, and the rest of the best one."""

    def __init__(
        self, make: Callable[[int], BiLevel], data: Pictures, numbers: Fit, window: tuple[int, int], seed: int, accelerator: Accelerator,
        events: Events,
    ) -> None:  # fmt: skip
        self.make, self.data, self.numbers, self.window, self.seed = make, data, numbers, window, seed
        self.accelerator, self.events = accelerator, events
        self.scores: list[float] = []
        self.best: dict[str, Tensor] = {}
        self.fitted = self._new(0)

    def go(self) -> None:
        """All of it, from where an interrupted run was."""
        numbers, events = self.numbers, self.events
        self._restore(events.load_state(STATE))
        events.stage("fit the perturbation", numbers.all_steps)
        tried = len(self.scores)
        events.step((tried * numbers.begun if tried < numbers.tries else (numbers.tries - 1) * numbers.begun) + self.fitted.step)
        while numbers.tries > 1 and len(self.scores) < numbers.tries:
            number = len(self.scores)
            self._advance(number, numbers.begun)
            self._judge()
            self.fitted = self._new(len(self.scores)) if len(self.scores) < numbers.tries else self._new(self._chosen).restore(self.best)
            self._save()
        if numbers.tries > 1:
            told = ", ".join(f"{score:.2f}" for score in self.scores)
            events.note(f"a short victim's Dice in pictures without the noise, by fit: {told}; fit {self._chosen + 1} goes on")
        self._advance(self._chosen, numbers.steps)

    @property
    def _chosen(self) -> int:
        return self.scores.index(min(self.scores)) if self.scores else 0

    def _new(self, number: int) -> _Fitted:
        return _Fitted(self.make(number), self.numbers, self.accelerator)

    def _advance(self, number: int, until: int) -> None:
        fitted, size = self.fitted, min(self.numbers.batch_size, len(self.data))
        windows = SegmentationWindows(self.data, self.window, foreground=NEAR_FOREGROUND, stream=(self.seed, number))
        for step in range(fitted.step, until):
            batch = windows.rows(range(step * size, (step + 1) * size))
            batch["turn"] = (8 * BatchRng(self.seed, step, range(1), 1 + number).uniform()).long().expand(size)
            fitted.optimizers.at(step, step / self.numbers.steps, self.numbers.learning_rate)
            try:
                fitted.trainee.training_step(
                    {name: values.to(self.accelerator.device) for name, values in batch.items()}, fitted.optimizers
                )
            except FloatingPointError as error:
                rate = self.numbers.learning_rate
                raise CalotypeError(f"the fit diverged at step {step} ({error}); take a lower learning_rate than {rate:g}") from None
            fitted.step = step + 1
            if fitted.step % REPORT_EVERY == 0:
                for name, value in fitted.optimizers.report().items():
                    self.events.metric(name, value)
            self.events.step()
            if fitted.step % SAVE_EVERY == 0:
                self._save()
            self.events.check()

    def _judge(self) -> None:
        """Train a victim on what this try draws, and keep the try if its victim finds less than those of the ones before."""
        # The windows are no step's of the fit, whose stream numbers are the tries'.
        windows = SegmentationWindows(self.data, self.window, foreground=NEAR_FOREGROUND, stream=(self.seed, self.numbers.tries))
        seen = windows.rows(range(VICTIM_WINDOWS))
        trainee = self.fitted.trainee.eval()
        with torch.no_grad():
            delta = torch.cat([
                trainee.perturbation(images.to(self.accelerator.device), masks.to(self.accelerator.device)).cpu()
                for images, masks in zip(seen["image"].split(ROWS), seen["mask"].split(ROWS), strict=True)
            ])  # fmt: skip
        victim = self.make(self.numbers.tries).surrogate
        victim = fit_segmenter(
            victim, (seen["image"] + delta).clamp(0, 1), seen["mask"], steps=VICTIM_STEPS, seed=self.seed, device=self.accelerator.device
        )
        found = predict(victim, seen["image"]).argmax(1)
        score = float(dice(found, seen["mask"], trainee.perturbation.num_classes).nanmean())
        trainee.train()
        self.events.metric("victim_dice", score)
        if not self.scores or score < min(self.scores):
            self.best = self.fitted.state()
        self.scores.append(score)
        self.events.check()

    def _save(self) -> None:
        best = {f"best.{name}": value for name, value in self.best.items()}
        self.events.save_state(STATE, {"scores": torch.tensor(self.scores, dtype=torch.float64), **best, **self.fitted.state()})

    def _restore(self, state: Mapping[str, Tensor] | None) -> None:
        if state is None:
            return
        self.scores = state["scores"].tolist()
        self.best = {name.removeprefix("best."): value for name, value in state.items() if name.startswith("best.")}
        tried = len(self.scores)
        self.fitted = self._new(tried if tried < self.numbers.tries else self._chosen).restore(state)


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
