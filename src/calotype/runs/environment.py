"""Where a run takes place: versions, device, memory, and the settings under which the same machine gives the same bits."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import calotype

_PACKAGES = ("torch", "diffusers", "transformers", "safetensors", "numpy", "pillow", "av")


def environment(device: str) -> dict[str, Any]:
    """Versions, processor, threads and device, as the record keeps them.

    Args:
        device: the torch device that the model runs on, such as "cpu" or "cuda:0".
    """
    versions = {"calotype": calotype.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    found: dict[str, Any] = {
        "versions": versions,
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(),
        "device": device,
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
    }
    commit = git_commit()
    if commit:
        found["git"] = commit
    return found


def processor_name() -> str:
    """The processor's name."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def device_name(device: str) -> str:
    """The name of a torch device's hardware."""
    if device.startswith("cuda") and torch.cuda.is_available():
        return torch.cuda.get_device_name(device)
    return processor_name()


@cache
def git_commit() -> str | None:
    """The commit of the working tree that this package runs from ("+" if files were changed), None if it is installed."""
    root = Path(calotype.__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        told = [
            subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True, timeout=5, check=True).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return told[0] + ("+" if told[1] else "")


def peak_memory(device: str) -> dict[str, int]:
    """Most bytes that this process has held so far, in RAM and on the device."""
    peaks: dict[str, int] = {}
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        peaks["ram"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if device.startswith("cuda") and torch.cuda.is_available():
        peaks["device"] = int(torch.cuda.max_memory_allocated(device))
    return peaks


@contextmanager
def repeatable(device: str, threads: int | None = None) -> Iterator[None]:
    """Settings under which the same call on the same machine gives the same bits; the old ones are put back afterwards.

    Args:
        device: the torch device that the model runs on. On a GPU torch is told to choose algorithms that add up in a fixed order; on the
            CPU it always does.
        threads: CPU threads to use, since sums depend on how they are split; None leaves them as they are.
    """
    before = torch.get_num_threads()
    if threads is not None and threads != before:
        torch.set_num_threads(threads)
    try:
        with _fixed_order() if device.startswith("cuda") else nullcontext():
            yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


@contextmanager
def _fixed_order() -> Iterator[None]:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    enabled, warn_only = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    try:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark


def differences(recorded: dict[str, Any], present: dict[str, Any]) -> list[str]:
    """One line for everything in which two environments differ and that can change the bits of a result.

    Example:
        >>> differences({"versions": {"torch": "2.8.0"}, "device": "cpu"}, {"versions": {"torch": "2.9.0"}, "device": "cpu"})
        ['torch 2.8.0 then, 2.9.0 now']
    """
    told = []
    old, new = recorded.get("versions", {}), present.get("versions", {})
    for package in sorted({*old, *new}):
        if old.get(package) != new.get(package):
            told.append(f"{package} {old.get(package, 'absent')} then, {new.get(package, 'absent')} now")
    for key, label in (
        ("platform", "platform"),
        ("processor", "processor"),
        ("device", "device"),
        ("device_name", "device"),
        ("threads", "threads"),
    ):
        if key in recorded and key in present and recorded[key] != present[key]:
            told.append(f"{label} {recorded[key]} then, {present[key]} now")
    return told
