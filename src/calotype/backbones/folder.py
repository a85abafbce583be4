"""Looks into a checkpoint folder in the diffusers layout: which parts it has, which files they need, what is missing.

Imports neither torch nor diffusers, so that `calotype doctor` and `calotype models` are quick.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calotype.backbones.headers import MOST_VOCABULARY_BYTES, damage, excess, read_json, tensor_count
from calotype.backbones.layouts import Layout, Network, known_pipelines, known_singles, pipeline_layout, single_layout
from calotype.errors import InputError, MissingError
from calotype.imaging.boundary import refusing

INT8, ROUNDED = "int8", "model.int8.safetensors"
"""The variant and the file of networks that are stored in 8 bits (`calotype.backbones.quantized`)."""

SHARED = "shared"
"""Entry of model_index.json: parts that lie in another checkpoint, by the name of its folder, which is beside this one."""

SMALL_FILES = {"feature_extractor": "preprocessor_config.json", "scheduler": "scheduler_config.json"}
"""Parts without weights, beside the tokenizers -> the file that makes them."""


@dataclass(frozen=True)
class Part:
    """One component of a checkpoint."""

    name: str
    class_name: str
    folder: Path
    weights: tuple[Path, ...] = ()
    variant: str | None = None
    """The variant of the weight files, such as `fp16`, or None for the plain ones."""
    network: Network | None = None
    """What the weights are of; None for a part without."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint folder: every file that loading needs is there and has its full length."""

    folder: Path
    layout: Layout
    parts: Mapping[str, Part]
    index: Mapping[str, Any]
    """The content of model_index.json; nothing for a folder that is one network."""

    @property
    def role(self) -> str:
        """The role that its adapter has."""
        return self.layout.role

    @property
    def weights(self) -> tuple[Path, ...]:
        """Every weight file, sorted."""
        return tuple(sorted(path for part in self.parts.values() for path in part.weights))

    @property
    def bytes(self) -> int:
        """Bytes of all weight files together."""
        return sum(path.stat().st_size for path in self.weights)


def open_checkpoint(folder: Path, *, variant: str | None = None, half: bool = False, remedy: str = "fetch it again") -> Checkpoint:
    """Check a folder and choose its weight files.

    Args:
        folder: a diffusers pipeline folder, or the folder of one network that has a layout of its own.
        variant: the variant of the weight files to read, such as "fp16"; a part that lacks it is read from its plain files. None takes the
            plain files, or the half-precision ones where those are wanted (`half`) or the only ones.
        half: prefer half-precision files, which are smaller to read, because the model will run in half precision anyway.
        remedy: what an error tells the user to do.

    Raises:
        InputError: the folder is no checkpoint, or one that no role exists for, its weights are pickled, or its files say what can't be.
        MissingError: files are missing or cut short; the message names the first ones.
    """
    with refusing(str(folder), remedy):
        return _open(folder, variant=variant, half=half, remedy=remedy)


def _open(folder: Path, *, variant: str | None, half: bool, remedy: str) -> Checkpoint:
    index = folder / "model_index.json"
    if not index.is_file():
        if (folder / "config.json").is_file():
            return _open_single(folder, variant=variant, half=half, remedy=remedy)
        raise InputError(f"{folder} is no checkpoint folder: it has neither model_index.json nor config.json; {remedy}")
    content = read_json(index)
    class_name = str(content.get("_class_name"))
    layout = pipeline_layout(class_name)
    if layout is None:
        raise InputError(f"{folder} is a {class_name}; calotype reads {known_pipelines()} and {known_singles()} folders")
    _refuse(layout, str(folder), content, {})
    problems: list[str] = []
    parts: dict[str, Part] = {}
    for name in (*needed_parts(layout), *sorted(layout.optional)):
        entry = content.get(name)
        named = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
        if named is None and name in layout.optional and (folder / name).is_dir():
            named = layout.parts[name][0].class_name if layout.parts[name] else ""
        if named is None:
            if name not in layout.optional:
                problems.append(f"model_index.json names no {name}")
            continue
        place = _place(folder, name, content.get(SHARED))
        part, missing = _open_part(name, str(named), layout.parts[name], place, variant=variant, half=half)
        parts[name] = part
        problems += missing
    return _checked(Checkpoint(folder, layout, parts, content), problems, variant, remedy)


def _place(folder: Path, name: str, shared: object) -> Path:
    """The folder of a part: its own, or that of the checkpoint beside this one that model_index.json names for it."""
    other = shared.get(name) if isinstance(shared, Mapping) else None
    if not isinstance(other, str) or (folder / name).is_dir() or not _is_file_name(other):
        return folder / name
    place = folder.parent / other
    # A checkpoint of one network is itself the part.
    alone = (place / "config.json").is_file() and not (place / name).is_dir()
    return place if alone else place / name


def needed_parts(layout: Layout) -> list[str]:
    """The parts that a folder can't lack, by name."""
    return sorted(set(layout.parts) - set(layout.optional))


def _refuse(layout: Layout, subject: str, index: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> None:
    problem = layout.problem(index, configs)
    if problem:
        raise InputError(f"{subject} {problem}")


def _checked(checkpoint: Checkpoint, problems: list[str], variant: str | None, remedy: str) -> Checkpoint:
    """The checkpoint, unless its files are incomplete or say what can't be."""
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise MissingError(f"{checkpoint.folder} is incomplete: {'; '.join(problems[:3])}{more}; {remedy}")
    if variant is not None and all(part.variant != variant for part in checkpoint.parts.values()):
        raise MissingError(
            f"{checkpoint.folder} has no {variant!r} weight files; leave out variant to read the plain ones "
            '(variant "fp16" is the usual other)'
        )
    _check_configs(checkpoint, remedy)
    return checkpoint


def _check_configs(checkpoint: Checkpoint, remedy: str) -> None:
    """Refuse what the small files show, before anything large is read."""
    configs = {part.name: read_json(part.folder / "config.json") for part in checkpoint.parts.values() if part.weights}
    wanted = {"model_index.json": excess(checkpoint.index)}
    for name, config in configs.items():
        wanted[f"{name}/config.json"] = excess(config, sum(tensor_count(path) for path in checkpoint.parts[name].weights))
    scheduler = checkpoint.parts.get("scheduler")
    if scheduler is not None:
        wanted["scheduler_config.json"] = excess(read_json(scheduler.folder / "scheduler_config.json"))
    for file, problem in wanted.items():
        if problem:
            raise InputError(f"{checkpoint.folder}: {file} can't be right: {problem}; {remedy}")
    for tokenizer in (part for part in checkpoint.parts.values() if part.name.startswith("tokenizer")):
        for path in sorted(tokenizer.folder.glob("*.*")):
            if path.suffix in (".json", ".txt") and path.is_file() and path.stat().st_size > MOST_VOCABULARY_BYTES:
                raise InputError(f"{path} has {path.stat().st_size / 1e6:.0f} MB; a vocabulary has a few: {remedy}")
    _refuse(checkpoint.layout, str(checkpoint.folder), checkpoint.index, configs)


def _open_single(folder: Path, *, variant: str | None, half: bool, remedy: str) -> Checkpoint:
    """A folder that is one network."""
    class_name = network_class(read_json(folder / "config.json"))
    layout = single_layout(class_name)
    if layout is None:
        raise InputError(
            f"{folder} holds one {class_name}; alone, calotype reads {known_singles()} folders only: give the pipeline's folder"
        )
    ((name, networks),) = layout.parts.items()
    part, problems = _open_part(name, class_name, networks, folder, variant=variant, half=half)
    return _checked(Checkpoint(folder, layout, {name: part}, {}), problems, variant, remedy)


def network_class(config: Mapping[str, Any]) -> str:
    """The class of a network by its config.json, as diffusers or transformers names it there."""
    listed = config.get("architectures")
    return str(config.get("_class_name") or (listed[0] if isinstance(listed, list) and listed else None))


def _open_part(
    name: str, class_name: str, networks: Sequence[Network], folder: Path, *, variant: str | None, half: bool
) -> tuple[Part, list[str]]:
    """One component and what is wrong with it."""
    if name in SMALL_FILES:
        return Part(name, class_name, folder), _need(folder, SMALL_FILES[name])
    if name.startswith("tokenizer"):
        problems = [] if (folder / "tokenizer.json").is_file() else _need(folder, "vocab.json") + _need(folder, "merges.txt")
        return Part(name, class_name, folder), problems + _need(folder, "tokenizer_config.json")
    network = next((network for network in networks if network.class_name == class_name), None)
    if network is None:
        raise InputError(f"{folder} is a {class_name}; calotype reads {', '.join(network.class_name for network in networks)} there")
    problems = _need(folder, "config.json")
    if (folder / ROUNDED).is_file():
        return Part(name, class_name, folder, (folder / ROUNDED,), INT8, network), problems + [p for p in [damage(folder / ROUNDED)] if p]
    files, found, missing = choose_weights(folder, network.stem, variant=variant, half=half)
    return Part(name, class_name, folder, files, found, network), problems + missing


def _need(folder: Path, file: str) -> list[str]:
    return [] if (folder / file).is_file() else [f"{folder.name}/{file} is missing"]


def choose_weights(folder: Path, stem: str, *, variant: str | None, half: bool) -> tuple[tuple[Path, ...], str | None, list[str]]:
    """The safetensors files of one component, single or in shards, in the wanted variant or the nearest one.

    Returns:
        The files, their variant, and what is wrong with them (missing or cut short), each in a few words.

    Raises:
        InputError: the folder holds pickled weights only.
    """
    order: list[str | None] = [variant, None] if variant is not None else (["fp16", None] if half else [None, "fp16"])
    tried: list[tuple[tuple[Path, ...], str | None, list[str]]] = []
    for candidate in order:
        files = _weight_files(folder, stem, candidate)
        if files is None:
            continue
        problems = [problem for path in files if (problem := damage(path))]
        if not problems:
            return files, candidate, []
        tried.append((files, candidate, problems))
    if tried:
        return tried[0]
    if any(folder.glob("*.bin")) or any(folder.glob("*.ckpt")) or any(folder.glob("*.pt")):
        raise InputError(
            f"{folder} has pickled weights only, which can run code when they are read: save the model again with "
            "save_pretrained(..., safe_serialization=True), or fetch its safetensors files"
        )
    return (), None, [f"{folder.name}/{_file_name(stem, variant)} is missing"]


def _file_name(stem: str, variant: str | None) -> str:
    return f"{stem}.{variant}.safetensors" if variant else f"{stem}.safetensors"


def _weight_files(folder: Path, stem: str, variant: str | None) -> tuple[Path, ...] | None:
    """The files that make up one variant, whether or not they are there; None if the folder doesn't have the variant at all."""
    index = folder / (f"{stem}.safetensors.index.{variant}.json" if variant else f"{stem}.safetensors.index.json")
    if index.is_file():
        shards = read_json(index).get("weight_map")
        names = list(shards.values()) if isinstance(shards, dict) else []
        if not names or not all(map(_is_file_name, names)):
            raise InputError(f"{folder.name}/{index.name} doesn't list the weight files beside it; fetch the checkpoint again")
        return tuple(folder / name for name in sorted(set(names)))
    single = folder / _file_name(stem, variant)
    # A link in the hub's cache whose target is gone still says which file was meant.
    return (single,) if single.is_file() or single.is_symlink() else None


def _is_file_name(name: object) -> bool:
    """Whether this names a file of the folder itself; with folders in it, it would lead out of the checkpoint."""
    return isinstance(name, str) and name not in ("", "..") and Path(name).name == name and "\\" not in name
