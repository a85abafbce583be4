"""A training's state on disk: weights, moving average, optimiser and counters as safetensors and JSON; a kill leaves a whole one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from calotype.core.untrusted import file_name, read_json, whole
from calotype.errors import InputError
from calotype.imaging.files import atomic_path, open_own, take_lock
from calotype.train.stages import MAIN

POINTER = "state.json"


Optimisers = Mapping[str, torch.optim.Optimizer]
"""By the name of the group that each trains."""


def save_state(folder: Path, counters: dict[str, Any], model: nn.Module, average: nn.Module, optimizers: Optimisers) -> None:
    """Write the state of step `counters["step"]`; `state.json` names the tensors' file and is replaced last, then older files go."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    for prefix, module in (("model", model), ("ema", average)):
        tensors.update({f"{prefix}.{name}": value.detach().cpu().contiguous() for name, value in module.state_dict().items()})
    for group, optimizer in optimizers.items():
        for number, values in optimizer.state_dict()["state"].items():
            place = f"{_prefix(group)}{number}"
            tensors.update({f"{place}.{name}": value.detach().cpu().contiguous() for name, value in values.items()})
    name = f"state-{counters['step']:08d}.safetensors"
    with atomic_path(folder / name, overwrite=True) as temporary:
        save_file(_unshared(tensors), temporary)
        _sync(temporary)
    with atomic_path(folder / POINTER, overwrite=True) as temporary:
        temporary.write_text(json.dumps({**counters, "tensors": name}, indent=1) + "\n", encoding="utf-8")
        _sync(temporary)
    for old in folder.glob("state-*.safetensors"):
        if old.name != name:
            old.unlink(missing_ok=True)


def read_counters(folder: Path) -> dict[str, Any] | None:
    """The counters of the state in a folder, None where there is none."""
    path = folder / POINTER
    if not path.is_file():
        return None
    counters = read_json(path, "delete the folder to start anew")
    if "tensors" in counters:
        file_name(counters["tensors"], f"{path}: tensors")
    for name in ("step", "seed", "batch_size", "ema_updates"):
        if name in counters:
            whole(counters[name], f"{path}: {name}")
    return counters


def load_tensors(folder: Path, counters: dict[str, Any], *, model: nn.Module | None, average: nn.Module, optimizers: Optimisers) -> None:
    """Put a saved state back, exactly."""
    from safetensors.torch import load_file

    path = folder / counters["tensors"]
    if not path.is_file():
        raise InputError(f"{path} is missing although {POINTER} names it; delete {folder} to start anew")
    tensors = load_file(path)
    for prefix, module in (("model.", model), ("ema.", average)):
        if module is not None:
            module.load_state_dict({name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)})
    for group, optimizer in optimizers.items():
        prefix = _prefix(group)
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            number, _, field = name.removeprefix(prefix).partition(".")
            if name.startswith(prefix) and number.isdigit():
                state.setdefault(int(number), {})[field] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _prefix(group: str) -> str:
    """What an optimiser's tensors begin with; the one optimiser of a training has no name there."""
    return "optimizer." if group == MAIN else f"optimizer.{group}."


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other trainings out of a folder, which is made; the lock ends with the process, however that ends.

    Raises:
        InputError: another process trains in it, or the lock is a link.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = open_own(folder / "lock", os.O_RDWR | os.O_CREAT)
    try:
        take_lock(file, f"another process is training in {folder}; wait for it, or choose another folder with --out")
        yield
    finally:
        os.close(file)


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Safetensors refuses two names for one storage; tied weights are written twice."""
    seen: set[int] = set()
    made = {}
    for name, value in tensors.items():
        made[name] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    return made


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
