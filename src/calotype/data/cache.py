"""Tensors that take long to compute and may be wanted again, on disk under the hash of what they were computed from."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from calotype.errors import InputError
from calotype.imaging.files import atomic_path, disk_trouble, user_path

VARIABLE = "CALOTYPE_CACHE"
"""Environment variable that moves the cache."""


def cache_folder() -> Path:
    """Where caches lie: `$CALOTYPE_CACHE`, else `calotype` in `$XDG_CACHE_HOME`, else `~/.cache/calotype`."""
    named = os.environ.get(VARIABLE)
    if named:
        return user_path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "calotype"


def content_key(told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of plain values and tensors, by name.

    Example:
        >>> import torch
        >>> content_key({"steps": 2}, {"clip": torch.ones(2)}) == content_key({"steps": 2}, {"clip": torch.ones(2)})
        True
        >>> content_key({"steps": 2}, {"clip": torch.ones(2)}) == content_key({"steps": 3}, {"clip": torch.ones(2)})
        False
    """
    total = hashlib.sha256(json.dumps(told, sort_keys=True, allow_nan=False).encode())
    for name in sorted(tensors):
        array = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {array.dtype} {list(array.shape)}\n".encode())
        total.update(array.numpy().tobytes())
    return total.hexdigest()


class TensorCache:
    """A bounded folder of safetensors files; the ones that were not used for longest go first.

    Nothing that happens to the files makes a run fail: what can't be read is computed again, what can't be written isn't kept.

    Args:
        name: folder in the cache.
        max_megabytes: of all files together; 0 keeps nothing and reads nothing.

    Example:
        >>> import tempfile, torch
        >>> kept = TensorCache("doctest", 1, root=Path(tempfile.mkdtemp()))
        >>> kept.put("a", {"x": torch.ones(2)})
        True
        >>> kept.get("a")["x"].tolist(), kept.get("b")
        ([1.0, 1.0], None)
    """

    def __init__(self, name: str, max_megabytes: float, *, root: Path | None = None) -> None:
        self.folder = (root or cache_folder()) / name
        self.max_megabytes = max_megabytes
        self.trouble = ""
        """Why the last `put` kept nothing; "" if it did."""

    def get(self, key: str) -> dict[str, Tensor] | None:
        """What was put under a key, or None."""
        path = self._path(key)
        try:
            if self.max_megabytes <= 0 or not path.is_file():
                return None
            found = load_file(path)
        except (SafetensorError, OSError, ValueError):
            with suppress(OSError):
                path.unlink(missing_ok=True)
            return None
        with suppress(OSError):
            os.utime(path)
        return found

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> bool:
        """Keep tensors under a key, whole or not at all; returns whether they are kept. If not, `trouble` says why."""
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) / 1e6
        if size > self.max_megabytes:
            self.trouble = f"they are larger than its bound of {self.max_megabytes:g} MB"
            return False
        try:
            with atomic_path(self._path(key), overwrite=True) as temporary:
                save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
            self._shrink(self._path(key))
        except (OSError, InputError, SafetensorError) as error:
            self.trouble = disk_trouble(error) or " ".join(str(error).split())[:200]
            return False
        self.trouble = ""
        return True

    def _shrink(self, newest: Path) -> None:
        found = [(path.stat().st_mtime, path.stat().st_size, path) for path in self.folder.glob("[!.]*.safetensors") if path != newest]
        total = newest.stat().st_size + sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.max_megabytes * 1e6:
                break
            path.unlink(missing_ok=True)
            total -= size

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"
