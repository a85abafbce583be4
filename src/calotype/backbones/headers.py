"""What the small files of a checkpoint say, read within bounds: JSON, headers of safetensors files, configs. No torch here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from calotype.core import untrusted

MOST_VOCABULARY_BYTES = 64 * 2**20
"""Largest file of a tokenizer; the public ones have a few megabytes."""
MOST_HEADER_BYTES = 32 * 2**20
"""Longest header of a safetensors file that is read; 2,000 tensors have some 200 kB."""
_REMEDY = "fetch the checkpoint again"
MOST_WIDTH = 2**20
"""Largest whole number that a network's or a scheduler's config may hold."""
MOST_CELLS = 4096
"""Most latent pixels a side, and most frames, that a config may say a network was trained at."""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a checkpoint.

    Raises:
        InputError: the file isn't a JSON object, or one beyond the bounds of `calotype.core.untrusted`.
    """
    return untrusted.read_json(path, _REMEDY)


def tensor_count(path: Path) -> int:
    """How many tensors a safetensors file lists; 0 for a damaged one."""
    header, _, _ = read_header(path)
    return len(header or ())


def damage(path: Path) -> str | None:
    """What is wrong with a safetensors file, judged by its header; None if nothing is."""
    name = f"{path.parent.name}/{path.name}"
    if not path.is_file():
        return f"{name} is missing"
    size = path.stat().st_size
    header, length, cut = read_header(path)
    if cut:
        return f"{name} is cut short at {size} bytes"
    if header is None:
        return f"{name} is no safetensors file"
    end = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    return None if size >= 8 + length + end else f"{name} is cut short at {size} of {8 + length + end} bytes"


def read_header(path: Path) -> tuple[dict[str, Any] | None, int, bool]:
    """The tensors that a safetensors file lists, the length of its header, and whether the file ends before its header does.

    None in place of the tensors if the header isn't one.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            return None, length, True
        if length > MOST_HEADER_BYTES:
            return None, length, False
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            return None, length, False
    if not isinstance(header, dict):
        return None, length, False
    header.pop("__metadata__", None)
    return (header if all(map(_is_tensor, header.values())) else None), length, False


def _is_tensor(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    offsets = entry.get("data_offsets")
    return _counts(entry.get("shape")) and _counts(offsets) and len(offsets) == 2 and offsets[0] <= offsets[1]


def _counts(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in values)


def excess(config: Mapping[str, Any], tensors: int | None = None) -> str:
    """What a config asks for that no checkpoint of its size has, in a few words; "" if it asks for nothing of the kind.

    Networks are built before their weights are read, so a number with too many digits would take all memory, or all time.

    Args:
        config: of a network or a scheduler.
        tensors: how many tensors the weight files list; a network has no more layers than that.

    Example:
        >>> excess({"num_hidden_layers": 12, "hidden_size": 768}, tensors=196), excess({"num_hidden_layers": 400}, tensors=196)
        ('', 'num_hidden_layers is 400, and the weight files list 196 tensors')
    """
    for name, value in _numbers(config):
        if abs(value) > MOST_WIDTH:
            return f"{name} is {value:.4g}, and at most {MOST_WIDTH} is possible"
        if name in ("sample_size", "num_frames") and value > MOST_CELLS:
            return f"{name} is {value}, and at most {MOST_CELLS} is possible"
        if tensors is not None and ("layers" in name or name.endswith("blocks")) and value > max(tensors, 1):
            return f"{name} is {value}, and the weight files list {tensors} tensors"
    return ""


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """Every whole number of a config, with the key that it stands under."""
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield from _numbers(child, str(key))
    elif isinstance(value, list):
        for child in value:
            yield from _numbers(child, name)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield name, value
