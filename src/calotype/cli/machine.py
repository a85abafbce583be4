"""What this machine has, found out without importing torch."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Gpu:
    """One graphics processor."""

    name: str
    memory: int
    """Bytes."""


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def memory() -> tuple[int, int]:
    """(all, available) bytes of main memory, zeros where they can't be found out."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        total, free = (int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        try:
            total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, ValueError, OSError):
            return 0, 0
        free = total
    limit = _container_limit()
    return (min(total, limit), min(free, limit)) if limit else (total, free)


def _container_limit() -> int:
    """The memory limit of a container, 0 if there is none."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limit = int(Path(path).read_text())
        except (OSError, ValueError):
            continue
        if limit < 1 << 50:
            return limit
    return 0


def gpus() -> list[Gpu]:
    """NVIDIA processors as their driver names them; an Apple one with the memory it shares."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return [Gpu("Apple GPU (mps)", memory()[0])]
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    try:
        told = subprocess.run(
            [tool, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    found = []
    for line in told.strip().splitlines():
        name, _, size = line.rpartition(",")
        found.append(Gpu(name.strip(), int(size) * 2**20 if size.strip().isdigit() else 0))
    return found


def torch_build() -> tuple[str, str]:
    """(version, "CPU", "CUDA 12.8", ...) of the installed torch, read from its version file; ("", "") if there is none."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return "", ""
    values: dict[str, str | None] = {}
    try:
        tree = ast.parse((Path(next(iter(spec.submodule_search_locations))) / "version.py").read_text())
    except (OSError, SyntaxError):
        return "unknown", "unknown build"
    for statement in tree.body:
        target = (
            statement.targets[0]
            if isinstance(statement, ast.Assign)
            else statement.target
            if isinstance(statement, ast.AnnAssign)
            else None
        )
        value = getattr(statement, "value", None)
        if isinstance(target, ast.Name) and isinstance(value, ast.Constant):
            values[target.id] = str(value.value) if value.value is not None else None
    kind = f"CUDA {values['cuda']}" if values.get("cuda") else f"ROCm {values['hip']}" if values.get("hip") else "CPU"
    return str(values.get("__version__") or "unknown"), kind


def torchvision_problem() -> str | None:
    """Why the installed torchvision breaks transformers; "" if it works, None if there is none. Tried in a process of its own."""
    if importlib.util.find_spec("torchvision") is None:
        return None
    try:
        done = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it can't be imported"])[-1]


def unmet_requirements() -> list[str]:
    """Dependencies of this package that are absent or of another version than it asks for."""
    from packaging.requirements import InvalidRequirement, Requirement

    problems = []
    try:
        declared = importlib.metadata.requires("calotype") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    for text in declared:
        try:
            wanted = Requirement(text)
        except InvalidRequirement:
            continue
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            found = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            problems.append(f"{wanted.name} is not installed")
            continue
        if not wanted.specifier.contains(found, prereleases=True):
            problems.append(f"{wanted.name} {found} is installed, {wanted.specifier} is needed")
    return problems


def missing_extras() -> dict[str, list[str]]:
    """By extra of this package: what of it is not installed."""
    from packaging.requirements import Requirement

    try:
        declared = [Requirement(text) for text in importlib.metadata.requires("calotype") or []]
    except importlib.metadata.PackageNotFoundError:
        return {}
    missing: dict[str, list[str]] = {}
    for extra in importlib.metadata.metadata("calotype").get_all("Provides-Extra") or []:
        for wanted in declared:
            if wanted.marker is None or wanted.marker.evaluate({"extra": ""}) or not wanted.marker.evaluate({"extra": extra}):
                continue
            try:
                importlib.metadata.version(wanted.name)
            except importlib.metadata.PackageNotFoundError:
                missing.setdefault(extra, []).append(wanted.name)
    return missing


def free_disk(path: Path) -> int:
    """Free bytes where a path is or would be."""
    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free
