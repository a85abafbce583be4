"""Batches of a data set, read ahead by torch's DataLoader where that pays."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from calotype.core.errors import CalotypeError
from calotype.data.folders import DataSet
from calotype.train.draws import rows_of_step

_MOST_WORKERS = 4


def default_workers(device: str) -> int:
    """How many processes read ahead: none on a CPU, where they would only share the cores with the training."""
    return 0 if torch.device(device).type == "cpu" else min(_MOST_WORKERS, max(0, (os.cpu_count() or 1) - 1))


@dataclass(frozen=True)
class _Steps(Dataset[dict[str, Tensor] | CalotypeError]):
    """A step's number -> its batch. An error is handed over, since a worker's would come with its traceback."""

    data: DataSet
    batch_size: int
    seed: int
    places: Sequence[int]

    def __getitem__(self, step: int) -> dict[str, Tensor] | CalotypeError:
        order = rows_of_step(step, self.batch_size, len(self.data), self.seed, first_in_order=False)
        numbers = [order[place] for place in self.places]
        try:
            return {**self.data.rows(numbers), "row": torch.tensor(numbers)}
        except CalotypeError as error:
            return error


def stream(
    data: DataSet,
    *,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    last_step: int | None = None,
    places: Sequence[int] | None = None,
    workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[dict[str, Tensor]]:
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
    numbers = itertools.count(first_step) if last_step is None else range(first_step, last_step)
    steps = _Steps(data, batch_size, seed, range(batch_size) if places is None else places)
    # The generator is its own, since the loader draws its workers' seeds from the global one otherwise.
    loader = DataLoader(
        steps, batch_size=None, sampler=numbers, num_workers=workers, pin_memory=pin_memory, generator=torch.Generator(),
        prefetch_factor=2 if workers else None,
    )  # fmt: skip
    for batch in loader:
        if isinstance(batch, CalotypeError):
            raise batch
        yield batch
