"""What run records say about a model: its identity, its weights' hash; and how well its autoencoder knows a picture."""

from __future__ import annotations

import hashlib
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from calotype.backbones.components import Adapter
from calotype.imaging.files import file_digest

_SHA256 = re.compile(r"[0-9a-f]{64}")


def describe(model: Adapter) -> dict[str, Any]:
    """Plain facts for a run record: name, role, class, folder, revision, licence, dtype, device, size, parameters."""
    source = model.source
    return {
        "name": model.name,
        "role": model.role,
        "class": type(model).__name__,
        "folder": str(source.folder) if source.folder is not None else None,
        "revision": source.revision,
        "licence": source.licence,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "size": list(model.size),
        "parameters": sum(parameter.numel() for network in model.networks.values() for parameter in network.parameters()),
    }


def checkpoint_hash(model: Adapter) -> str:
    """SHA-256 over the names and hashes of the weight files; over the weights themselves for a pipeline object.

    Files in the hub's cache are named by their hash and aren't read; others are read once a process.
    """
    total = hashlib.sha256()
    folder = model.source.folder
    if folder is not None:
        for path in model.source.weights:
            # A part may lie in the checkpoint beside this one.
            name = Path(os.path.relpath(path, folder)).as_posix()
            total.update(f"{name} {file_sha256(path)}\n".encode())
        return total.hexdigest()
    for name, network in sorted(model.networks.items()):
        for key, tensor in sorted(network.state_dict().items()):
            total.update(f"{name}.{key} {tensor.dtype} {list(tensor.shape)}\n".encode())
            total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of one file, in hexadecimal."""
    target = path.resolve()
    if _SHA256.fullmatch(target.name) and target.parent.name == "blobs":
        return target.name
    status = target.stat()
    return _read_sha256(target, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _read_sha256(path: Path, size: int, modified: int) -> str:
    """The hash of a file as it was at that size and time: the arguments are the memory's key."""
    return file_digest(path)
