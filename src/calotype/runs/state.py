"""Resumable states on disk: one safetensors file for every key, replaced as a whole."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from calotype.imaging.files import atomic_path, write_json

INTERVAL = 2.0
"""Seconds between two writes of one key; writing takes time that sampling should have."""


class StateStore:
    """The last state of every key, in a folder `state/` with `state.json` beside the tensors.

    Example:
        >>> import tempfile, torch
        >>> store = StateStore(Path(tempfile.mkdtemp()), interval=0)
        >>> store.offer("sample", {"x": torch.ones(2)})
        >>> StateStore(store.folder).load("sample")["x"].tolist()
        [1.0, 1.0]
    """

    def __init__(self, folder: Path, interval: float = INTERVAL) -> None:
        self.folder = folder
        self.interval = interval
        self._written: dict[str, float] = {}
        self._pending: dict[str, Mapping[str, Tensor]] = {}
        self._began = time.monotonic()

    def offer(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Take a state; write it if the last write of this key is long enough ago, else keep it in mind for `flush`."""
        self._pending[key] = tensors
        if time.monotonic() - self._written.get(key, self._began) >= self.interval:
            self._write(key)

    def flush(self) -> None:
        """Write what was offered and not yet written."""
        for key in list(self._pending):
            self._write(key)

    def kept(self) -> bool:
        """Whether there is any state on disk."""
        return self.folder.is_dir() and any(self.folder.glob("[!.]*.safetensors"))

    def load(self, key: str) -> dict[str, Tensor] | None:
        """The last state that was written under a key; None if there is none or it can't be read."""
        path = self._path(key)
        try:
            return load_file(path) if path.is_file() and not path.is_symlink() else None
        except (SafetensorError, OSError, ValueError):
            return None

    def clear(self) -> None:
        """Remove every state."""
        self._pending.clear()
        with suppress(OSError):
            for path in [*self.folder.glob("[!.]*.safetensors"), self.folder / "state.json"]:
                path.unlink(missing_ok=True)
            self.folder.rmdir()

    def _write(self, key: str) -> None:
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in self._pending.pop(key).items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(self._path(key), overwrite=True) as temporary:
            save_file(tensors, temporary, metadata={"key": key})
        keys = sorted(path.stem for path in self.folder.glob("[!.]*.safetensors"))
        write_json(self.folder / "state.json", {"keys": keys, "written": time.strftime("%Y-%m-%dT%H:%M:%S%z")})
        self._written[key] = time.monotonic()

    def _path(self, key: str) -> Path:
        return self.folder / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', key)}.safetensors"
