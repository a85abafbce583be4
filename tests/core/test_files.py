"""Files are whole or absent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from calotype.core.errors import InputError
from calotype.core.files import atomic_path, write_json


def test_folders_are_made_and_the_suffix_is_kept(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "new" / "deep" / "a.mp4") as temporary:
        assert temporary.suffix == ".mp4"
        assert temporary.parent == tmp_path / "new" / "deep"
        temporary.write_text("x")
    assert (tmp_path / "new" / "deep" / "a.mp4").read_text() == "x"


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")

    def fail() -> None:
        with atomic_path(tmp_path / "a.txt", overwrite=True) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    def race() -> None:
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("mine")
            (tmp_path / "a.txt").write_text("theirs")

    with pytest.raises(InputError, match="exists already"):
        race()
    assert (tmp_path / "a.txt").read_text() == "theirs"
    assert len(list(tmp_path.iterdir())) == 1


def test_folders_and_files_as_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for target in (tmp_path, tmp_path / "file" / "a.txt"):
        with pytest.raises(InputError, match="folder"), atomic_path(target, overwrite=True):
            pass


def test_dangling_links_count_as_existing(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="exists already"), atomic_path(tmp_path / "link"):
        pass


def test_json_is_plain_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_json(path, {"prompt": "Köln", "n": [1, 2.5, None]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"prompt": "Köln", "n": [1, 2.5, None]}
    assert "Köln" in path.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"psnr": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8"))["prompt"] == "Köln"
    with pytest.raises(InputError, match="exists already"):
        write_json(path, {}, overwrite=False)
