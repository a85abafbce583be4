"""Plans of edits, regions and tokens that somebody else wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image as Pillow

from calotype.methods.design_edit.arguments import recorded
from calotype.methods.design_edit.plan import Plan
from calotype.methods.ovam.tokens import Token
from tests.fuzz.mutations import as_bytes, damaged, fuzzed, reads_or_refuses, tampered

LAYER = {"mask": "polygon:10,10 40,10 25,40", "image": "two.png", "dx": 0.2, "dy": 0, "scale": 0.8, "flip": "h", "erase": True}
PLAN = {
    "edits": [
        {"remove": ["mask.png", "box:5,5,20,20", "word:lamp"], "refine": ["box:0,0,9,9"], "layers": [LAYER | {"hidden_by": "mask.png"}]},
        {"pan": [0.2, 0.1]},
        {"zoom_out": 1.5},
        {"swap": ["box:1,1,9,9", "box:20,20,30,30"]},
    ]
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plans")
    Pillow.linear_gradient("L").convert("RGB").resize((64, 64)).save(root / "two.png")
    Pillow.radial_gradient("L").resize((64, 64)).save(root / "mask.png")
    Token(("ball",), torch.ones(2, 8), {"model": "tiny"}).save(root / "token.safetensors")
    return root


def _read(path: Path) -> None:
    reads_or_refuses(lambda: Plan.read(path))
    reads_or_refuses(lambda: recorded({"image": path.with_name("two.png"), "plan": str(path)}))


@fuzzed
@given(plan=tampered([PLAN]))
def test_tampered_plans_are_read_or_refused(folder: Path, plan: object) -> None:
    path = folder / "plan.json"
    path.write_bytes(as_bytes(plan))
    _read(path)


@fuzzed
@given(data=damaged([as_bytes(PLAN)]))
@example(data=b"[" * 100_000)
@example(data=b'{"edits":' * 20_000)
def test_damaged_plans_are_read_or_refused(folder: Path, data: bytes) -> None:
    path = folder / "plan.json"
    path.write_bytes(data)
    _read(path)


@fuzzed
@given(
    region=st.text(max_size=60) | st.sampled_from(["box:", "polygon:1,1", "masks:-1", "word:", "file:", "~nobody/x", "a" * 5000, "\udcff"])
)
def test_any_region_is_read_or_refused(folder: Path, region: str) -> None:
    reads_or_refuses(lambda: recorded({"image": folder / "two.png", "remove": (region,)}))


@fuzzed
@given(data=st.data())
def test_damaged_tokens_are_read_or_refused(folder: Path, data: st.DataObject) -> None:
    whole = (folder / "token.safetensors").read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    path = folder / "damaged.safetensors"
    if data.draw(st.booleans()):
        changed = as_bytes(data.draw(tampered([header])))
        path.write_bytes(len(changed).to_bytes(8, "little") + changed + whole[8 + length :])
    else:
        path.write_bytes(data.draw(damaged([whole])))
    reads_or_refuses(lambda: Token.load(path))


@pytest.mark.parametrize("words", ["5", "null", '"ball"', "[1]", "[" * 100_000, '{"ball": 1}', "[]"])
def test_a_token_without_words_is_refused(folder: Path, words: str) -> None:
    whole = (folder / "token.safetensors").read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    header["__metadata__"]["words"] = words
    changed = json.dumps(header).encode()
    path = folder / "worded.safetensors"
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + whole[8 + length :])
    assert reads_or_refuses(lambda: Token.load(path)) is None
