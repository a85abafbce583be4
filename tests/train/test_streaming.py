"""Batches that are a function of the step's number alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from calotype.data.picture_folder import PictureFolder
from calotype.errors import InputError
from calotype.imaging.types import Image
from calotype.train.rng import BatchRng, rows_of_step
from calotype.train.streaming import StreamedSource, default_workers, stream


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PictureFolder:
    home = tmp_path_factory.mktemp("pictures")
    for number in range(7):
        Image.from_numpy(np.random.Generator(np.random.PCG64(number)).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(
            home / f"{number}.png"
        )
    return PictureFolder.open(home)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_step_sees_the_same_with_any_workers_and_after_a_stop(data: PictureFolder, workers: int) -> None:
    whole = list(stream(data, batch_size=4, seed=3, last_step=6))
    before = torch.get_rng_state()
    again = stream(data, batch_size=4, seed=3, first_step=2, last_step=6, workers=workers)
    for expected, found in zip(whole[2:], again, strict=True):
        assert same(expected, found)
    assert torch.equal(torch.get_rng_state(), before)


def test_processes_share_a_batch(data: PictureFolder) -> None:
    whole, even, odd = (next(stream(data, batch_size=5, seed=0, first_step=4, places=places)) for places in (None, (0, 2, 4), (1, 3)))
    assert same({name: values[0::2] for name, values in whole.items()}, even)
    assert same({name: values[1::2] for name, values in whole.items()}, odd)


def test_each_pass_has_an_order_of_its_own(data: PictureFolder) -> None:
    batches = stream(data, batch_size=7, seed=1, last_step=3)
    orders = [batch["row"].tolist() for batch in batches]
    assert all(sorted(order) == list(range(7)) for order in orders)
    assert len({tuple(order) for order in [*orders, list(range(7))]}) == 4, "the first one isn't that of the names either"


def test_an_endless_stream_can_be_left(data: PictureFolder) -> None:
    batches = stream(data, batch_size=2, seed=0, workers=1)
    assert next(batches)["image"].shape == (2, 3, 16, 16)
    batches.close()  # type: ignore[attr-defined]


class Torn:
    """Its fourth row can't be read."""

    fingerprint = "torn"

    def __len__(self) -> int:
        return 4

    def rows(self, indices: Sequence[int]) -> dict[str, Tensor]:
        if 3 in indices:
            raise InputError("data: 3.png changed since the training began; start it again")
        return {"x": torch.tensor(indices)}

    def split(self, share: float, seed: int = 0) -> tuple[Torn, Torn]:
        return self, self


@pytest.mark.parametrize("workers", [0, 1])
def test_a_workers_error_is_the_one_line_that_it_raised(workers: int) -> None:
    with pytest.raises(InputError, match=r"^data: 3\.png changed since the training began; start it again$"):
        list(stream(Torn(), batch_size=1, seed=0, last_step=4, workers=workers))


class Noisy(StreamedSource):
    def inputs(self, rows: dict[str, Tensor], rng: BatchRng, *, augment: bool) -> dict[str, Tensor]:
        return {"image": rows["image"] + rng.normal(rows["image"].shape[1:]), "row": rows["row"]}


def test_a_source_gives_the_loops_rows_whoever_reads_them(data: PictureFolder) -> None:
    here, ahead = Noisy(data, "cpu"), Noisy(data, "cpu", workers=1)
    places = (0, 1, 3)
    for step in (0, 1, 2, 5, 6, 1):
        rows = rows_of_step(step, 4, len(data), 9)
        rng = [BatchRng(9, step, places, 4) for _ in range(2)]
        found = [
            source.batch([rows[place] for place in places], each, augment=True) for source, each in zip((here, ahead), rng, strict=True)
        ]
        assert same(*found)
    held_out = here.batch(range(10), BatchRng(0, 0, range(10), 10), augment=False)["row"].tolist()
    assert sorted(held_out[:7]) == list(range(7))
    assert held_out[:3] == held_out[7:]


def test_a_cpu_reads_for_itself() -> None:
    assert default_workers("cpu") == 0
    assert 0 <= default_workers("cuda") <= 4
