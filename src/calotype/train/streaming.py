"""A data set's rows as batches of a training, read ahead by torch's DataLoader where that pays."""

from __future__ import annotations

import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from calotype.data.folders import DataSet
from calotype.errors import CalotypeError
from calotype.train.rng import BatchRng, rows_of_step

_MOST_WORKERS = 4


def default_workers(device: str) -> int:
    """How many processes read ahead: none on a CPU, where they would only share the cores with the training."""
    return 0 if torch.device(device).type == "cpu" else min(_MOST_WORKERS, max(0, (os.cpu_count() or 1) - 1))


def shuffled(data: DataSet, numbers: Sequence[int]) -> dict[str, Tensor]:
    """The rows of these numbers in an order that is always the same, and `row`, what their numbers in the data set are.

    A folder's rows lie in the order of their names, in which those that are alike follow each other. Numbers go round: after the last row
    comes the first again.
    """
    order = np.random.Generator(np.random.PCG64(np.random.SeedSequence([len(data), 84]))).permutation(len(data))
    rows = [int(order[number % len(data)]) for number in numbers]
    return {**data.rows(rows), "row": torch.tensor(rows)}


@dataclass(frozen=True)
class _Steps(Dataset[dict[str, Tensor] | CalotypeError]):
    """A step's number -> its batch. An error is handed over, since a worker's would come with its traceback."""

    data: DataSet
    batch_size: int
    seed: int
    places: Sequence[int]

    def __getitem__(self, step: int) -> dict[str, Tensor] | CalotypeError:
        numbers = rows_of_step(step, self.batch_size, len(self.data), self.seed)
        try:
            return shuffled(self.data, [numbers[place] for place in self.places])
        except CalotypeError as error:
            return error


def stream(
    data: DataSet, *, batch_size: int, seed: int, first_step: int = 0, last_step: int | None = None, places: Sequence[int] | None = None,
    workers: int = 0, pin_memory: bool = False,
) -> Iterator[dict[str, Tensor]]:  # fmt: skip
    """The batches of steps `first_step` .. `last_step` - 1, a function of the step's number alone: with any number of workers, and after
    a stop, a step sees the same.

    Every pass over the data has an order of its own. Close the iterator (`close()`, or let it go) to end the workers.

    Args:
        data: what `rows` is asked of; workers get a copy.
        batch_size: rows of a step, over all processes.
        seed: of the orders.
        first_step: where a training goes on.
        last_step: None for no end.
        places: which rows of each batch are wanted here, where several processes share it; None for all.
        workers: processes that read ahead; 0 reads when a batch is asked for.
        pin_memory: copy batches to memory that a GPU reads faster.

    Yields:
        {name: tensor [B, ...]} as `data.rows` has it, and `row` [B] int64, the rows' numbers.

    Raises:
        CalotypeError: what `rows` raises, in its step.

    Example:
        >>> class Numbers:
        ...     fingerprint = "numbers"
        ...     def __len__(self): return 5
        ...     def rows(self, indices): return {"x": torch.tensor(indices) ** 2}
        >>> whole = list(stream(Numbers(), batch_size=2, seed=0, last_step=4))
        >>> again = next(stream(Numbers(), batch_size=2, seed=0, first_step=3))
        >>> bool((whole[3]["x"] == again["x"]).all()), bool((again["x"] == again["row"] ** 2).all())
        (True, True)
    """
    steps = itertools.count(first_step) if last_step is None else range(first_step, last_step)
    # The generator is its own, since the loader draws its workers' seeds from the global one otherwise.
    loader = DataLoader(
        _Steps(data, batch_size, seed, range(batch_size) if places is None else places), batch_size=None, sampler=steps,
        num_workers=workers, pin_memory=pin_memory, generator=torch.Generator(), prefetch_factor=2 if workers else None,
    )  # fmt: skip
    for batch in loader:
        if isinstance(batch, CalotypeError):
            raise batch
        yield batch


class StreamedSource(ABC):
    """A `Source` of a data set's rows: read ahead by workers in training, and when they are asked for otherwise.

    A recipe's source is a subclass that makes the trainee's inputs of them (`inputs`).

    Args:
        data: the rows.
        device: of the training.
        workers: processes that read ahead; `default_workers` of the device if None.
    """

    def __init__(self, data: DataSet, device: str, *, workers: int | None = None) -> None:
        self.data, self.device, self.count = data, device, len(data)
        self.workers = default_workers(device) if workers is None else workers
        self._stream: Iterator[dict[str, Tensor]] = iter(())
        self._next: tuple[int, int, tuple[int, ...]] | None = None
        """Seed, step and places of the batch that comes next."""

    @abstractmethod
    def inputs(self, rows: dict[str, Tensor], rng: BatchRng, *, augment: bool) -> dict[str, Tensor]:
        """What the trainee takes, on the CPU or the device; `rows` has `row` beside what the data set gives."""

    def batch(self, rows: Sequence[int], rng: BatchRng, *, augment: bool) -> dict[str, Tensor]:
        """See `calotype.train.recipe.Source`."""
        read = self._ahead(rng) if augment and self.workers else shuffled(self.data, rows)
        return {name: tensor.to(self.device) for name, tensor in self.inputs(read, rng, augment=augment).items()}

    def _ahead(self, rng: BatchRng) -> dict[str, Tensor]:
        places = tuple(int(place) for place in rng.places)
        if self._next != (rng.seed, rng.step, places):
            self._stream = stream(
                self.data, batch_size=rng.batch_size, seed=rng.seed, first_step=rng.step, places=places, workers=self.workers,
                pin_memory=torch.device(self.device).type == "cuda",
            )  # fmt: skip
        self._next = (rng.seed, rng.step + 1, places)
        return next(self._stream)
