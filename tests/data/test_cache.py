"""The cache of tensors: bounded, whole or absent, never the reason of a failure."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from calotype.data.cache import TensorCache, cache_folder, content_key

MEGABYTE = torch.zeros(250_000)


def test_the_ones_not_used_for_longest_go_first(tmp_path: Path) -> None:
    cache = TensorCache("some", 2.5, root=tmp_path)
    for age, name in enumerate(("a", "b")):
        assert cache.put(name, {"x": MEGABYTE})
        os.utime(tmp_path / "some" / f"{name}.safetensors", (1000 + age, 1000 + age))
    assert cache.get("a") is not None  # Now "b" is the one that was not used for longest.
    assert cache.put("c", {"x": MEGABYTE})
    assert [name for name in "abc" if cache.get(name) is not None] == ["a", "c"]
    assert sum(path.stat().st_size for path in (tmp_path / "some").iterdir()) <= 2.5e6


def test_what_is_too_large_or_switched_off_is_not_kept(tmp_path: Path) -> None:
    assert not TensorCache("some", 0.5, root=tmp_path).put("a", {"x": MEGABYTE})
    assert not TensorCache("some", 0, root=tmp_path).put("a", {"x": MEGABYTE})
    assert not (tmp_path / "some").exists()


def test_a_damaged_file_is_nothing(tmp_path: Path) -> None:
    cache = TensorCache("some", 10, root=tmp_path)
    cache.put("a", {"x": MEGABYTE})
    path = tmp_path / "some" / "a.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    assert cache.get("a") is None
    assert not path.exists()


def test_a_folder_that_cannot_be_made_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert not TensorCache("some", 10, root=tmp_path / "file").put("a", {"x": MEGABYTE})


def test_the_place_and_the_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CALOTYPE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("CALOTYPE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "calotype"
    plain = content_key({"a": 1}, {"x": torch.zeros(2)})
    assert plain != content_key({"a": 1}, {"x": torch.zeros(1, 2)})
    assert plain != content_key({"a": 1}, {"x": torch.zeros(2, dtype=torch.float64)})
    assert plain != content_key({"a": 1}, {"y": torch.zeros(2)})
