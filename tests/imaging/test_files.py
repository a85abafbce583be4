"""Files are whole or absent."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calotype.errors import CalotypeError, InputError, MissingError, one_line
from calotype.imaging.files import atomic_path, file_stems, write_json


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


@pytest.mark.parametrize(
    ("labels", "stems"),
    [
        (["red ball", "red-ball"], ["red-ball-2", "red-ball"]),
        (["red-ball", "red ball"], ["red-ball", "red-ball-2"]),
        (["red ball", "red-ball", "red-ball-2"], ["red-ball-3", "red-ball", "red-ball-2"]),
        (["House", "house", "HOUSE"], ["House", "house-2", "HOUSE-3"]),
        (["café", "cafe\u0301"], ["café", "café-2"]),
        (["?", "!", "../../x"], ["word", "word-2", "x"]),
        (["con", "nul", "a/b"], ["con-2", "nul-2", "a-b"]),
        (["Straße", "strasse"], ["Straße", "strasse-2"]),
    ],
)
def test_labels_that_would_have_one_file_name_keep_two(labels: list[str], stems: list[str]) -> None:
    assert file_stems(labels) == stems


def test_stems_stay_clear_of_what_is_taken_and_of_the_limit() -> None:
    assert file_stems(["Picture", "a"], taken=["picture"]) == ["Picture-2", "a"]
    long = [f"{'a' * 300} {end}" for end in "xy"] + ["é" * 200]
    assert all(len(stem.encode()) <= 124 for stem in file_stems(long))
    assert len(set(file_stems(long))) == 3


@given(labels=st.lists(st.text(max_size=400) | st.sampled_from(["a b", "a-b", "A b", "a-b-2", "con", "ﬀ", "ff"]), max_size=8))
def test_stems_are_different_names_on_every_file_system(labels: list[str]) -> None:
    stems = file_stems(labels)
    folded = [unicodedata.normalize("NFKC", stem).casefold() for stem in stems]
    assert len(set(folded)) == len(labels)
    assert all(stem and not set(stem) & set('/\\:*?"<>|. \0') and len(stem.encode()) <= 130 for stem in stems)
    assert stems == file_stems(labels)


@pytest.mark.parametrize("stem", ["a" * 240, "é" * 120, "漢" * 80])
def test_a_file_of_the_longest_name_can_be_written(tmp_path: Path, stem: str) -> None:
    write_json(tmp_path / f"{stem}.json", {})
    assert [path.stem for path in tmp_path.iterdir()] == [stem]


@pytest.mark.parametrize("text", ["a\nb", "a\x1b[31mb", "\udcff", "a\u202eb", "x" * 5000, "\0", "zero\u200bwidth"])
def test_messages_are_one_line_that_can_be_printed(text: str) -> None:
    for error in (CalotypeError(text), InputError(text), MissingError(text)):
        assert str(error).isprintable()
        assert len(str(error).encode()) <= 1300
    assert one_line("3 × 4 °C, “é” 漢字") == "3 × 4 °C, “é” 漢字"


def test_names_that_are_no_text_are_written_as_escapes(tmp_path: Path) -> None:
    for name, told in [("\udcff.png", r"\udcff.png"), ("é\udcfe", r"é\udcfe"), ("plain é", "plain é"), ("\U0001f600", "\U0001f600")]:
        write_json(tmp_path / "a.json", {"path": name})
        assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"path": told}
