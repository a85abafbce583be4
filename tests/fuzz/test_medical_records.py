"""Records of the methods that find, make and protect masks, as somebody may have changed them: read, or refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import calotype
from calotype.core.artifacts import DatasetFolder
from calotype.data.segmentation_folder import Pair, write_segmentation
from calotype.errors import MissingError
from calotype.imaging.types import Image
from calotype.methods.diffusion_segmentation import DiffusionSegmentation
from calotype.methods.style_extracting_diffusion import StyleExtractingDiffusion
from calotype.methods.umed import UMed
from calotype.registry import resolve_method
from calotype.runs import ModelRequest, compare, read_record, rerun, resume, run
from tests.fuzz.mutations import as_bytes, damaged, fuzzed, reads_or_refuses, tampered
from tests.fuzz.test_records import NESTED, Sandbox
from tests.tiny_style import cached_style_model, tissue_folder

some = settings(fuzzed, max_examples=min(60, fuzzed.max_examples))
CHANGED = ("inputs", "arguments", "parameters", "model", "models", "seed", "status", "results", "metrics")
UMED = UMed(fit_steps=1, batch_size=2, widths=(4, 8), surrogate_widths=(4, 4, 8), window=16)


def load(request: ModelRequest) -> Any:
    return calotype.load(request.name, device="cpu") if request.name else None


def stub(request: ModelRequest) -> None:
    raise MissingError("nothing is loaded here")


def discs(folder: Path) -> Path:
    masks = torch.zeros(16, 16, dtype=torch.int64)
    masks[4:12, 4:12] = 1
    pictures = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    return write_segmentation(folder, [Pair(f"p{number}", picture, masks) for number, picture in enumerate(pictures)])


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with pytest.MonkeyPatch.context() as patch:
        made = Sandbox(tmp_path_factory.mktemp("records"))
        (made.root / "work").mkdir()
        patch.chdir(made.root)
        yield made


@pytest.fixture(scope="module")
def finished(sandbox: Sandbox) -> dict[str, Path]:
    """A run of each method; that of UMed gave originals back. Each could be gone on with."""
    root, segmenter = sandbox.root, DiffusionSegmentation(num_samples=1, num_inference_steps=1)
    styled = StyleExtractingDiffusion(num_inference_steps=1, batch_size=1)
    Image(torch.rand(3, 32, 32)).save(root / "picture.png")
    tissue_folder(root / "tissue", patients=2, pictures=1)
    protection = UMED(None, DatasetFolder(discs(root / "discs")))
    assert protection.protected is not None
    assert protection.key is not None
    shutil.copytree(protection.protected.path, root / "protected")
    shutil.copytree(protection.key.path, root / "key")
    tissue = root / "tissue"
    runs: dict[str, tuple[Any, dict[str, Any], str]] = {
        "segmented": (segmenter, {"image": root / "picture.png"}, "toy-segmenter"),
        "styled": (styled, {"layouts": tissue, "styles": tissue, "count": 1}, str(cached_style_model())),
        "restored": (UMED, {"data": root / "protected", "key": root / "key"}, ""),
    }
    found = {}
    for name, (method, arguments, model) in runs.items():
        found[name] = run(method, arguments, load, model=ModelRequest(model), out=root / name).folder
        record = json.loads((found[name] / "run.json").read_text())
        (found[name] / "run.json").write_text(json.dumps({**record, "status": "interrupted"}))
    sandbox.kept = tuple(sorted(path.name for path in root.iterdir() if path.name not in ("precious.txt", "first.png", "work")))
    return found


@pytest.mark.parametrize("name", ["segmented", "styled", "restored"])
@given(data=st.data())
@some
def test_any_change_of_a_record(finished: dict[str, Path], sandbox: Sandbox, name: str, data: st.DataObject) -> None:
    folder = finished[name]
    place = sandbox.fresh(folder)
    record = json.loads((folder / "run.json").read_text())
    # A changed number of steps would be a longer fit, which is right and slow.
    parts = [part for part in CHANGED if part in record and (name, part) != ("restored", "parameters")]
    changed = tampered([{part: record[part] for part in parts}])
    whole = changed.map(lambda part: as_bytes({**record, **part} if isinstance(part, dict) else part))
    (place / "run.json").write_bytes(data.draw(whole | damaged([as_bytes(record)]) | st.sampled_from(NESTED)))
    for call in (
        partial(read_record, place),
        partial(compare, place, folder),
        partial(rerun, place, resolve_method=resolve_method, load_model=stub, out=sandbox.new, trust=False),
        partial(resume, place, resolve_method=resolve_method, load_model=stub),
    ):
        reads_or_refuses(call)
        sandbox.untouched()


@given(data=st.data())
@some
def test_any_change_of_a_key(finished: dict[str, Path], sandbox: Sandbox, data: st.DataObject) -> None:
    assert finished
    key = sandbox.fresh(sandbox.root / "key")
    told = json.loads((key / "key.json").read_text())
    (key / "key.json").write_bytes(data.draw(tampered([told]).map(as_bytes) | damaged([as_bytes(told)]) | st.sampled_from(NESTED)))
    difference = key / "differences" / "p0.png"
    if difference.is_file() and data.draw(st.booleans()):
        difference.write_bytes(data.draw(damaged([difference.read_bytes()])))
    made = reads_or_refuses(lambda: UMED(None, DatasetFolder(sandbox.root / "protected"), key=DatasetFolder(key)))
    if made is not None:
        originals = made.originals.path  # type: ignore[attr-defined]
        before, after = ((place / "images" / "p0.png").read_bytes() for place in (sandbox.root / "discs", originals))
        assert before == after
