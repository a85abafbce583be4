"""Tables and manifests beside a user's pictures, damaged or written by somebody else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calotype.data.picture_folder import PictureFolder
from calotype.imaging.types import Image
from tests.fuzz.mutations import as_bytes, damaged, fuzzed, reads_or_refuses, tampered

TABLES = {
    "table.csv": 'file_name,group,split,caption\nimages/0.png,anna,train,"red, round"\nimages/1.png,ben,val,"a ""blue"" one"\n',
    "metadata.jsonl": '{"file_name": "images/0.png", "caption": "red"}\n{"file_name": "images/1.png", "caption": "blue"}\n',
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("fuzz") / "data"
    (home / "images").mkdir(parents=True)
    for number in range(2):
        Image.from_numpy(np.full((16, 16, 3), 50 * number, dtype=np.uint8)).save(home / "images" / f"{number}.png")
    PictureFolder.open(home, manifest=home.parent / "manifest.jsonl")
    return home


@fuzzed
@given(data=st.data(), name=st.sampled_from(sorted(TABLES)))
def test_a_damaged_table_is_read_or_refused(pictures: Path, data: st.DataObject, name: str) -> None:
    (pictures / name).write_bytes(data.draw(damaged([TABLES[name].encode()])))
    try:
        reads_or_refuses(lambda: PictureFolder.open(pictures, manifest=pictures.parent / "manifest.jsonl"))
    finally:
        (pictures / name).unlink()


@fuzzed
@given(data=st.data())
def test_a_damaged_manifest_is_made_anew(pictures: Path, data: st.DataObject) -> None:
    kept = pictures.parent / "manifest.jsonl"
    seed = kept.read_bytes()
    lines = [json.loads(line) for line in seed.splitlines()]
    record: Any = data.draw(tampered([{"lines": lines}]))
    changed = record.get("lines", [])
    written = b"\n".join(map(as_bytes, changed if isinstance(changed, list) else [changed]))
    kept.write_bytes(data.draw(damaged([seed]) | st.just(written)))
    try:
        found = reads_or_refuses(lambda: PictureFolder.open(pictures, manifest=kept).rows([0, 1]))
        assert isinstance(found, dict)
    finally:
        kept.write_bytes(seed)
