"""Pictures and clips as latents: encoded once, in chunks that are kept on disk as far as they fit, so that every later pass is free."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from calotype.data.cache import TensorCache, content_key
from calotype.data.folders import FolderData
from calotype.errors import MissingError

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


MEMORY_MEGABYTES, DISK_MEGABYTES = 4_000.0, 20_000.0
"""Most that one set of chunks holds in memory and on disk. The largest of the embedded models', toy-i2v's 65,536 clips, has 2,000."""


class Chunks:
    """Rows of named tensors, made a chunk at a time by `make(first, count)` and kept in memory and, with a folder, on disk.

    Both are bounded: the chunks that were not used for longest go first, and are read or made again when they are asked for. A chunk is
    always made as a whole, so its numbers don't depend on which row was asked for first.

    Args:
        make: rows first .. first + count - 1 as tensors on the CPU.
        count: number of rows.
        chunk: rows of one chunk; the last one may have fewer.
        folder: where chunks are kept as safetensors; its name says what they were made of. None keeps none.
        key: the file name of a chunk by its number; where the folder's name doesn't say all, a hash of what the chunk is made of.
        memory_megabytes: most that is held in memory, beside the chunk in use.
        disk_megabytes: most that is kept in the folder.

    Example:
        >>> chunks = Chunks(lambda first, count: {"x": torch.arange(first, first + count)}, count=5, chunk=2)
        >>> chunks.rows([4, 0, 3])["x"].tolist()
        [4, 0, 3]
    """

    def __init__(
        self, make: Callable[[int, int], dict[str, Tensor]], *, count: int, chunk: int, folder: Path | None = None,
        key: Callable[[int], str] = "{:05d}".format, memory_megabytes: float = MEMORY_MEGABYTES, disk_megabytes: float = DISK_MEGABYTES,
    ) -> None:  # fmt: skip
        self.make, self.count, self.chunk, self.key = make, count, chunk, key
        self.cache = TensorCache(folder.name, disk_megabytes, root=folder.parent) if folder is not None else None
        self.memory_megabytes = memory_megabytes
        self._held: OrderedDict[int, dict[str, Tensor]] = OrderedDict()
        self._megabytes = 0.0

    def rows(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """The rows of these numbers, stacked."""
        picked = [{name: values[number % self.chunk] for name, values in self._chunk(number // self.chunk).items()} for number in numbers]
        return {name: torch.stack([row[name] for row in picked]) for name in picked[0]}

    def make_all(self, done: Callable[[], None]) -> None:
        """Make every chunk that isn't there yet; `done` is called after each."""
        for number in range(math.ceil(self.count / self.chunk)):
            self._chunk(number)
            done()

    def _chunk(self, number: int) -> dict[str, Tensor]:
        if number not in self._held:
            self._held[number] = self._read(number)
            self._megabytes += _megabytes(self._held[number])
            while len(self._held) > 1 and self._megabytes > self.memory_megabytes:
                self._megabytes -= _megabytes(self._held.popitem(last=False)[1])
        self._held.move_to_end(number)
        return self._held[number]

    def _read(self, number: int) -> dict[str, Tensor]:
        found = self.cache.get(self.key(number)) if self.cache is not None else None
        if found is not None:
            return found
        first = number * self.chunk
        # As they come back from disk: another layout in memory may give other last bits in what is computed of them.
        made = {name: values.contiguous() for name, values in self.make(first, min(self.chunk, self.count - first)).items()}
        if self.cache is not None:
            self.cache.put(self.key(number), made)
        return made


def _megabytes(tensors: Mapping[str, Tensor]) -> float:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) / 1e6


def latents_of(
    data: FolderData, encode: Callable[[dict[str, Tensor]], dict[str, Tensor]], *, encoder: str, folder: Path, chunk: int = 64,
    memory_megabytes: float = MEMORY_MEGABYTES, disk_megabytes: float = DISK_MEGABYTES,
) -> Chunks:  # fmt: skip
    """What an encoder makes of a user's data, row by row, each chunk kept under what it is made of.

    A chunk is found again by any training with the same files, captions, sizes and encoder, and made anew where one of them differs.

    Args:
        data: what is encoded.
        encode: the tensors of some rows -> theirs, on the CPU, as many rows.
        encoder: hash of the encoder's weights and of whatever else `encode` depends on.
        folder: where chunks are kept.
        chunk: rows of one chunk.
        memory_megabytes: most that is held in memory.
        disk_megabytes: most that is kept in the folder, by all that is kept there.
    """

    def numbers(number: int) -> range:
        return range(number * chunk, min((number + 1) * chunk, len(data)))

    return Chunks(
        lambda first, count: encode(data.rows(range(first, first + count))),
        count=len(data),
        chunk=chunk,
        folder=folder,
        key=lambda number: content_key({"encoder": encoder, "rows": data.key(numbers(number))}, {}),
        memory_megabytes=memory_megabytes,
        disk_megabytes=disk_megabytes,
    )


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: Tensor, rows: int = 64) -> Tensor:
    """The posterior's mode of pixels [N, 3, H, W] in [-1, 1], float32, not scaled."""
    return torch.cat([vae.encode(part).latent_dist.mean for part in pixels.split(rows)])


def pin(origin: Path, folder: Path) -> Path:
    """Copy a frozen part into the run's data folder once, so that a resumed run uses the same even after the original was replaced.

    Raises:
        MissingError: there is no such part.
    """
    target = folder / origin.name
    if not target.is_dir():
        if not origin.is_dir():
            raise MissingError(f"{origin} does not exist, and this training is built on it; run first: calotype train {origin.name}")
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(origin, temporary)
        temporary.rename(target)
    return target


def frozen_vae(folder: Path, checkpoints: Path, start: Path | None, device: str) -> tuple[AutoencoderKL, str]:
    """The autoencoder that latents are made with, and a fingerprint of its weights.

    A model that goes on from shipped weights keeps the autoencoder that it was trained with; a new one takes `toy-vae`.

    Raises:
        MissingError: there is none.
    """
    from diffusers import AutoencoderKL

    pinned = pin(start / "vae" if start is not None else checkpoints / "toy-vae", folder)
    vae = AutoencoderKL.from_pretrained(pinned, torch_dtype=torch.float32).to(device).eval().requires_grad_(False)
    return vae, hashlib.sha256((pinned / "diffusion_pytorch_model.safetensors").read_bytes()).hexdigest()[:12]
