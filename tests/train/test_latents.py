"""Chunks of latents: the same numbers whatever is held, bounds that hold, and files of before that are used."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from calotype.data.picture_folder import PictureFolder
from calotype.imaging.types import Image
from calotype.train.latents import Chunks, latents_of

FLOATS = 25_000
"""Of one row: 0.1 MB."""


class Made:
    """Makes rows that hold their number, and counts the chunks that it made."""

    def __init__(self) -> None:
        self.firsts: list[int] = []

    def __call__(self, first: int, count: int) -> dict[str, Tensor]:
        self.firsts.append(first)
        return {"x": torch.arange(first, first + count, dtype=torch.float32)[:, None].expand(-1, FLOATS).contiguous()}


def numbers(chunks: Chunks, wanted: list[int]) -> list[float]:
    return chunks.rows(wanted)["x"][:, 0].tolist()


def test_rows_are_the_same_whatever_fits(tmp_path: Path) -> None:
    wanted = [0, 9, 4, 9, 1, 7, 0, 5]
    for memory, disk in ((1e3, 1e3), (0.3, 1e3), (0.0, 0.0), (0.3, 0.5)):
        chunks = Chunks(Made(), count=10, chunk=2, folder=tmp_path / f"{memory}-{disk}", memory_megabytes=memory, disk_megabytes=disk)
        assert numbers(chunks, wanted) == wanted
        assert numbers(chunks, wanted) == wanted


def test_memory_and_disk_are_bounded_and_the_one_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    made, folder = Made(), tmp_path / "kept"
    chunks = Chunks(made, count=20, chunk=2, folder=folder, memory_megabytes=0.4, disk_megabytes=1.0)
    for number in range(20):
        numbers(chunks, [number])
        for age, path in enumerate(sorted(folder.iterdir())):
            os.utime(path, (1000 + age, 1000 + age))
        assert sum(path.stat().st_size for path in folder.iterdir()) <= 1e6
        assert len(chunks._held) <= 2
    assert made.firsts == list(range(0, 20, 2))
    numbers(chunks, [17, 19, 13])  # The first two are in memory, the third on disk.
    assert made.firsts == list(range(0, 20, 2))
    numbers(chunks, [1])
    assert made.firsts[-1] == 0


def test_a_chunk_of_an_earlier_run_is_used_and_a_damaged_one_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "pictures-train-0"
    folder.mkdir()
    save_file({"x": torch.full((2, FLOATS), 7.0)}, folder / "00000.safetensors")
    (folder / "00001.safetensors").write_bytes(b"torn")
    made = Made()
    assert numbers(Chunks(made, count=4, chunk=2, folder=folder), [0, 2]) == [7, 2]
    assert made.firsts == [2]
    assert numbers(Chunks(made, count=4, chunk=2, folder=folder), [3]) == [3]
    assert made.firsts == [2]


def test_the_last_chunk_may_be_shorter(tmp_path: Path) -> None:
    made, done = Made(), []
    chunks = Chunks(made, count=5, chunk=2, folder=tmp_path / "kept")
    chunks.make_all(lambda: done.append(1))
    assert made.firsts == [0, 2, 4]
    assert len(done) == 3
    assert numbers(chunks, [4]) == [4]


def test_chunks_are_found_by_what_they_are_made_of(tmp_path: Path) -> None:
    first, second = Made(), Made()
    numbers(Chunks(first, count=4, chunk=2, folder=tmp_path / "kept", key="ab".__getitem__), [0, 2])
    numbers(Chunks(second, count=4, chunk=2, folder=tmp_path / "kept", key="ac".__getitem__), [0, 2])
    assert (first.firsts, second.firsts) == ([0, 2], [2])


def test_latents_of_a_folder_are_made_again_only_for_what_changed(tmp_path: Path) -> None:
    home = tmp_path / "data"
    home.mkdir()

    def picture(number: int) -> None:
        pixels = np.full((16, 16, 3), 10 * number, dtype=np.uint8)
        Image.from_numpy(pixels).save(home / f"{number:02d}.png", overwrite=True)

    for number in range(5):
        picture(number)
    encoded: list[int] = []

    def encode(rows: dict[str, Tensor]) -> dict[str, Tensor]:
        encoded.append(len(rows["image"]))
        return {"mean": rows["image"].mean((1, 2, 3)) * 255}

    def means(encoder: str = "weights") -> list[int]:
        encoded.clear()
        chunks = latents_of(PictureFolder.open(home), encode, encoder=encoder, folder=tmp_path / "kept", chunk=2)
        return [round(value) for value in chunks.rows(range(chunks.count))["mean"].tolist()]

    assert (means(), encoded) == ([0, 10, 20, 30, 40], [2, 2, 1])
    assert (means(), encoded) == ([0, 10, 20, 30, 40], [])
    picture(5)
    assert (means(), encoded) == ([0, 10, 20, 30, 40, 50], [2])
    for number in range(6):
        (home / f"{number:02d}.txt").write_text("a caption")
    assert (means(), encoded) == ([0, 10, 20, 30, 40, 50], [2, 2, 2])
    assert (means("others"), encoded) == ([0, 10, 20, 30, 40, 50], [2, 2, 2])


def test_rows_have_one_layout_in_memory_whether_they_were_made_or_read(tmp_path: Path) -> None:
    def made(first: int, count: int) -> dict[str, Tensor]:
        return {"x": torch.rand(count, 3, 4, 4).contiguous(memory_format=torch.channels_last)}

    fresh, read = (Chunks(made, count=2, chunk=2, folder=tmp_path / "kept").rows([0, 1])["x"] for _ in range(2))
    assert torch.equal(fresh, read)
    assert fresh.stride() == read.stride()
