"""Checkpoint folders, and names of checkpoints, that somebody else made: what can't be read is refused in one line."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from calotype.backbones import CHECKPOINTS, load, locate
from calotype.errors import CalotypeError
from calotype.runs.presets import default_preset
from tests import tiny
from tests.fuzz.mutations import HOSTILE, as_bytes, bounded, damaged, fuzzed, reads_or_refuses, tampered
from tests.runs.toy_method import ToyFade

KINDS = ("toy-t2i", "sdxl", "sharded", "svd", "toy-vae", "toy-qsm", "toy-subject", "toy-landscape")
"""Real classes at tiny width, and those embedded checkpoints whose files are of a kind of their own."""


def _build(kind: str, folder: Path) -> Path:
    if kind == "sharded":
        return tiny.tiny_toy_t2i(folder, max_shard_size="300KB")
    return Path(shutil.copytree(tiny.cached(kind) if kind in tiny.BUILDERS else CHECKPOINTS / kind, folder))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {kind: _build(kind, root / kind) for kind in KINDS}


def _use(folder: Path) -> object:
    """Load a checkpoint and take the first steps with it, as every method does."""
    model = load(folder, device="cpu")
    if model.role in ("TextToImage", "SubjectToImage"):
        model.condition(["a red ball on grass"])
    return model.sigmas(4) if hasattr(model, "sigmas") else model.size


def _with(path: Path, data: bytes, folder: Path) -> None:
    """Read the folder while one of its files holds something else; what `locate` refuses, `load` doesn't begin with."""
    whole = path.read_bytes()
    path.write_bytes(data)
    try:
        if reads_or_refuses(lambda: locate(folder)) is not None:
            reads_or_refuses(lambda: _use(folder))
    finally:
        path.write_bytes(whole)


def _drawn_file(data: st.DataObject, folders: dict[str, Path], *suffixes: str) -> tuple[Path, Path]:
    # A folder first: those of many files are the slowest ones. The first two kinds have no file of a kind of their own.
    folder = folders[data.draw(st.sampled_from(KINDS[2:]))]
    return folder, data.draw(st.sampled_from([path for path in sorted(folder.rglob("*")) if path.name.endswith(suffixes)]))


@fuzzed
@given(data=st.data())
def test_tampered_json_files_are_read_or_refused(folders: dict[str, Path], data: st.DataObject) -> None:
    folder, path = _drawn_file(data, folders, ".json")
    _with(path, as_bytes(data.draw(tampered([json.loads(path.read_text())]))), folder)


@fuzzed
@given(data=st.data())
def test_damaged_files_are_read_or_refused(folders: dict[str, Path], data: st.DataObject) -> None:
    folder, path = _drawn_file(data, folders, ".json", ".txt", ".safetensors")
    _with(path, data.draw(damaged([path.read_bytes()])), folder)


@fuzzed
@given(data=st.data())
def test_tampered_headers_are_read_or_refused(folders: dict[str, Path], data: st.DataObject) -> None:
    folder, path = _drawn_file(data, folders, ".safetensors")
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = as_bytes(data.draw(tampered([json.loads(whole[8 : 8 + length])])))
    _with(path, len(header).to_bytes(8, "little") + header + whole[8 + length :], folder)


@pytest.mark.parametrize("kind", ["sdxl", "svd", "toy-qsm", "toy-subject"])
@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"\xff\xfe{", b"{}", b"null", b'{"a": 1' + b"0" * 5000 + b"}"])
def test_files_that_hold_something_else_are_refused(folders: dict[str, Path], kind: str, content: bytes) -> None:
    for path in sorted(folders[kind].rglob("*.json")):
        _with(path, content, folders[kind])


@pytest.mark.parametrize(
    ("kind", "file", "values"),
    [
        ("toy-t2i", "text_encoder/config.json", {"num_hidden_layers": 10**30}),
        ("toy-t2i", "text_encoder/config.json", {"num_hidden_layers": 1_000_000}),
        ("toy-t2i", "text_encoder/config.json", {"hidden_size": 65_536, "intermediate_size": 1_000_000}),
        ("toy-t2i", "unet/config.json", {"layers_per_block": 100_000}),
        ("toy-t2i", "unet/config.json", {"block_out_channels": [32, 64, 131_072]}),
        ("toy-t2i", "vae/config.json", {"block_out_channels": [32, 32, 524_288]}),
        ("toy-t2i", "scheduler/scheduler_config.json", {"num_train_timesteps": 10**10}),
        ("toy-t2i", "unet/config.json", {"sample_size": 1_000_000}),
        ("svd", "unet/config.json", {"num_frames": 10**9}),
        ("svd", "image_encoder/config.json", {"image_size": 1_000_000, "patch_size": 1}),
        ("toy-qsm", "unet/config.json", {"channels": [64, 65_536]}),
        ("toy-qsm", "unet/config.json", {"num_res_blocks": [10**6, 10**6]}),
        ("toy-subject", "subject_encoder/config.json", {"size": 1_000_000}),
        ("toy-subject", "text_encoder/config.json", {"num_hidden_layers": 5_000}),
        ("toy-landscape", "pixel_classifier/config.json", {"num_members": 10**6}),
        ("toy-landscape", "motion/config.json", {"size": 2**20}),
        ("toy-landscape", "generator/config.json", {"channels": {"4": 2**20, "8": 2**20, "16": 8, "32": 8, "64": 8}}),
        ("toy-landscape", "encoder/config.json", {"feature_layer": 10**6}),
        (
            "toy-landscape",
            "encoder/config.json",
            {"_class_name": "OfficialFeatureStyleEncoder", "num_styles": 10**6, "depths": [10**6, 1, 1, 1], "seen": 64},
        ),
    ],
)
def test_a_config_can_not_ask_for_all_memory_or_all_time(folders: dict[str, Path], kind: str, file: str, values: dict[str, object]) -> None:
    path = folders[kind] / file
    whole = path.read_bytes()
    path.write_text(json.dumps(json.loads(whole) | values))
    try:
        with bounded(), pytest.raises(CalotypeError):
            load(folders[kind], device="cpu")
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("name", ["../../x.safetensors", "/etc/passwd", "a/b.safetensors", "", "..", 3, None, ["x"]])
def test_shards_lie_beside_their_index(folders: dict[str, Path], name: object) -> None:
    path = folders["sharded"] / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    listed = json.loads(path.read_text())
    with pytest.raises(CalotypeError, match="doesn't list the weight files beside it"):
        _refused_with(path, json.dumps(listed | {"weight_map": dict.fromkeys(listed["weight_map"], name)}), folders["sharded"])


def _refused_with(path: Path, text: str, folder: Path) -> None:
    whole = path.read_bytes()
    path.write_text(text)
    try:
        locate(folder)
    finally:
        path.write_bytes(whole)


def test_a_pipe_in_a_checkpoint_folder_is_no_file(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny.cached("toy-vae"), tmp_path / "vae"))
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        kept = (folder / name).read_bytes()
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with bounded(), pytest.raises(CalotypeError):
            load(folder)
        (folder / name).unlink()
        (folder / name).write_bytes(kept)


NAMES = [str(value) for value in HOSTILE if isinstance(value, str)] + [
    "a b/c d", "owner/na me", "-o/x", "owner/..", "owner/x--y", "a/b/c", "~nobody-of-that-name", "~/", "x/" * 3000, "a" * 97 + "/b",
    "o/" + "é" * 30, "\udcff\udcfe/x", "o/\udcff", "\x1b[2J/x", "a\nb/c", "con/nul", " ", "/", "//", "\\\\server\\x", "o/x\0",
]  # fmt: skip


@fuzzed
@given(name=st.sampled_from(NAMES) | st.text(max_size=300) | st.from_regex(r"[\w. -]{1,120}/[\w. -]{1,120}", fullmatch=True))
@example(name="a" * 5000)
def test_any_name_is_found_or_refused(name: str) -> None:
    reads_or_refuses(lambda: locate(name))
    reads_or_refuses(lambda: default_preset(ToyFade, name))


@pytest.mark.parametrize("name", NAMES)
def test_a_strange_name_is_refused_in_a_line_that_can_be_printed(name: str) -> None:
    with pytest.raises(CalotypeError) as caught:
        load(name)
    assert str(caught.value).isprintable()


@fuzzed
@given(revision=st.sampled_from(NAMES) | st.text(max_size=100))
@example(revision="../../../etc/passwd")
def test_any_revision_is_found_or_refused(revision: str) -> None:
    reads_or_refuses(lambda: locate("stabilityai/stable-video-diffusion-img2vid", revision=revision))
