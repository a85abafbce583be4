"""The only place that reads pickled files: public weights, with torch's reader of plain weights, which runs no code.

What it gives is untrusted. `assembled` makes a network of it without ever taking more memory than the file has.
"""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from calotype.data.files import plain_file
from calotype.errors import InputError
from calotype.imaging.boundary import refusing

WRAPPER = "module."
"""What wrappers for several GPUs put before each name."""
_Network = TypeVar("_Network", bound=nn.Module)


def read_weights(file: Path, give: str) -> Any:
    """What a file holds: tensors by name, or these among settings, in dictionaries and lists. Large tensors are read when they are used.

    Args:
        file: what `torch.save` wrote.
        give: for messages, which file is wanted, such as "give model.pth of ...".

    Raises:
        InputError: it can't be read without running code, or says that it holds more than it does.
    """
    size = plain_file(file).stat().st_size
    with refusing(str(file), give):
        _refuse_packed(file, size, give)
        # Trainings store their settings beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    # A few stored numbers can claim to be a tensor of any shape, and a network is made as large as the shapes say.
    if sum(value.numel() * value.element_size() for value in _tensors(found)) > size:
        raise InputError(f"{file} says that it has larger weights than it holds; {give}")
    return found


def named_weights(found: Any, file: Path, give: str) -> dict[str, Tensor]:
    """Tensors by name, in float32 where they are numbers with a point, without a wrapper's prefix.

    Raises:
        InputError: something else was found.
    """
    if not isinstance(found, Mapping) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise InputError(f"{file} holds no weights by name; {give}")
    return {
        str(name).removeprefix(WRAPPER): value.float() if value.is_floating_point() else value for name, value in found.items()
    }  # fmt: skip


def assembled(make: Callable[[], _Network], state: Mapping[str, Tensor], file: Path, give: str) -> _Network:
    """The network that `make` makes, with these weights, none missing and none left over.

    Raises:
        InputError: names or shapes don't fit.
    """
    with refusing(str(file), give), torch.device("meta"):
        network = make()
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    for name in sorted(expected.keys() | state.keys()):
        if name not in state:
            raise InputError(f"{file} has no weights named {name}; {give}")
        if name not in expected:
            raise InputError(f"{file} has weights that are not known: {name}; {give}")
        if tuple(state[name].shape) != expected[name]:
            raise InputError(f"{file}: {name} has the shape {list(state[name].shape)}; {list(expected[name])} is expected: {give}")
    network.load_state_dict(dict(state), assign=True)
    return network.eval().requires_grad_(False)


def _refuse_packed(file: Path, size: int, give: str) -> None:
    """Refuse what torch didn't save by itself: files before its zip format, and ones whose parts are packed and unfold to any size.

    Raises:
        InputError: it is one of these.
    """
    if not zipfile.is_zipfile(file):
        raise InputError(f"{file} isn't a file that torch 1.6 or later saved; {give}")
    with zipfile.ZipFile(file) as archive:
        if sum(part.file_size for part in archive.infolist()) > size:
            raise InputError(f"{file} has packed parts, which torch doesn't write; {give}")


def _tensors(found: Any) -> Iterator[Tensor]:
    """All tensors in it, in however many layers of containers; each container is looked into once."""
    seen: set[int] = set()
    left = [found]
    while left:
        value = left.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping | list | tuple | set | argparse.Namespace) and id(value) not in seen:
            seen.add(id(value))
            values = vars(value) if isinstance(value, argparse.Namespace) else value
            left.extend(values.values() if isinstance(values, Mapping) else values)
