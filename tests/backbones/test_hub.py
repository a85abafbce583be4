"""What is said when the hub, the network or the disk refuses a download, and of checkpoints that their owners removed."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

from calotype.backbones import load, locate
from calotype.backbones.hub import choose_files, download
from calotype.errors import CalotypeError, Cancelled, InputError, MissingError
from calotype.index import MODELS

REMOVED = sorted(name for name, row in MODELS.items() if row.removed)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return tmp_path


def _answers(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def model_info(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(HfApi, "model_info", model_info)


def _refusal(kind: type[HfHubHTTPError], status: int = 404) -> HfHubHTTPError:
    error = kind.__new__(kind)
    Exception.__init__(error, f"{status} Client Error.\nRequest ID: 1\n\nRepository Not Found")
    return error


@pytest.mark.parametrize("name", REMOVED)
def test_a_removed_checkpoint_is_not_looked_for_twice(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = MODELS[name].mirror
    said = rf"its owner removed it in {MODELS[name].removed}, a copy that others keep is {copy}"
    for find in (locate, load):
        with pytest.raises(MissingError, match=rf"{name} is not on this machine .*{said}: run `calotype models get {copy}`"):
            find(name)
    _answers(monkeypatch, _refusal(RepositoryNotFoundError))
    with pytest.raises(InputError, match=rf"the hub has no {name} \(RepositoryNotFoundError\); {said}: run `calotype models get {copy}`"):
        download(name)
    _answers(monkeypatch, ConnectionError("no route"))
    with pytest.raises(MissingError, match=rf"could not be fetched \(ConnectionError\); {said}: check the network"):
        download(name)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (_refusal(RepositoryNotFoundError), InputError, r"the hub has no owner/name \(RepositoryNotFoundError\); check the name"),
        (_refusal(RevisionNotFoundError), InputError, "the hub has no owner/name"),
        (_refusal(GatedRepoError, 403), MissingError, "asks you to accept its licence first"),
        (_refusal(HfHubHTTPError, 500), MissingError, r"could not be fetched \(HfHubHTTPError\)"),
        (LocalEntryNotFoundError("not here"), MissingError, "could not be fetched"),
        (TimeoutError("slow"), MissingError, r"could not be fetched \(TimeoutError\)"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), MissingError, r"can't be written to .*no space left on device.*HF_HOME"),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), MissingError, r"can't be written to .*(quota exceeded|used up)"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES)), MissingError, r"can't be written to .*permission denied"),
        (Cancelled("stopped"), Cancelled, "^stopped$"),
        (KeyError("siblings"), InputError, r"what the hub answered can't be read \(KeyError"),
    ],
)
def test_a_download_that_fails_says_why_in_one_line(
    error: Exception, kind: type[CalotypeError], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _answers(monkeypatch, error)
    with pytest.raises(kind, match=said) as caught:
        download("owner/name")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("revision", ["../../x", "/etc", "a b", "", "-x", "a..b", "x" * 300])
def test_a_revision_stays_in_the_cache(revision: str, empty_cache: Path) -> None:
    for call in (download, locate):
        with pytest.raises(InputError, match="is no branch, tag or commit"):
            call("owner/name", revision=revision)
    assert not list(empty_cache.iterdir())


def test_a_repository_that_is_one_network_is_fetched_without_what_is_pickled() -> None:
    listed = ["README.md", "config.json", "model.safetensors", "pytorch_model.bin", "onnx/model.onnx", "preprocessor_config.json"]
    config = {"architectures": ["Dinov2Model"], "model_type": "dinov2"}
    assert choose_files(listed, config, None) == ["config.json", "README.md", "model.safetensors"]
    with pytest.raises(InputError, match="the repository has no safetensors files"):
        choose_files(["config.json", "pytorch_model.bin"], config, None)
    with pytest.raises(InputError, match="holds one BertModel; alone, calotype reads Dinov2Model, AutoencoderKL, VQModel only"):
        choose_files(listed, {"architectures": ["BertModel"]}, None)
