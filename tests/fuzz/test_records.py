"""Records, chains, plans, tokens and kept inputs as somebody may have changed them are read, or refused in one line, and touch nothing."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file

from calotype.chains import Chain, rerun_chain, resume_chain, run_chain
from calotype.core.method import Method
from calotype.errors import MissingError
from calotype.imaging.media import read_metadata
from calotype.imaging.types import Image, Mask, Video, Volume
from calotype.methods.design_edit.arguments import named_files, recorded
from calotype.methods.design_edit.plan import Plan
from calotype.methods.ovam.tokens import Token
from calotype.registry import resolve_method
from calotype.runs import ModelRequest, compare, read_record, rerun, resume, run
from calotype.runs.inputs import read_exact, write_exact
from calotype.train.state import read_counters
from tests.fuzz.mutations import as_bytes, damaged, fuzzed, reads_or_refuses, tampered
from tests.runs.toy_folder_method import ToyUpper
from tests.runs.toy_method import ToyFade, ToyStamp

NESTED = (b"[" * 100_000, b'{"a":' * 50_000, b'{"calotype_run": 1, "a": ' + b"[" * 500 + b"]" * 500 + b"}")


def resolve(slug: str) -> type[Method]:
    own: dict[str, type[Method]] = {"toy-fade": ToyFade, "toy-stamp": ToyStamp, "toy-upper": ToyUpper}
    return own[slug] if slug in own else resolve_method(slug)


def stub(request: ModelRequest) -> None:
    if request.name:
        raise MissingError("nothing is loaded here")


def picture(path: Path) -> Path:
    Pillow.linear_gradient("L").resize((32, 32)).convert("RGB").save(path)
    return path


class Sandbox:
    """A folder of the user's with a file that must stay, and a place in it where records are tried."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "precious.txt").write_text("mine")
        self.given = picture(root / "first.png")
        self.place, self.new = root / "work" / "place", root / "work" / "new"

    def fresh(self, source: Path | None = None) -> Path:
        """The place as it was, and nothing beside it."""
        shutil.rmtree(self.root / "work", ignore_errors=True)
        self.place.parent.mkdir()
        if source is None:
            self.place.mkdir()
        else:
            shutil.copytree(source, self.place)
        return self.place

    def untouched(self) -> None:
        """Fails if anything was written outside of the place."""
        found = sorted(item.name for item in self.root.iterdir())
        assert found == sorted({"precious.txt", "first.png", "work", *self.kept})
        assert sorted(item.name for item in self.place.parent.iterdir()) in (["place"], ["new", "place"])
        assert (self.root / "precious.txt").read_text() == "mine"

    kept: tuple[str, ...] = ()


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with pytest.MonkeyPatch.context() as patch:
        made = Sandbox(tmp_path_factory.mktemp("records"))
        # Records may name places relative to where the command runs.
        (made.root / "work").mkdir()
        patch.chdir(made.root)
        yield made


@pytest.fixture(scope="module")
def finished(sandbox: Sandbox) -> tuple[Path, Path]:
    """The folders of two runs, of which one can be gone on with."""
    fade = run(ToyFade.quick(), {"start": sandbox.given, "gain": 0.5}, stub, model=ModelRequest(""), out=sandbox.root / "fade").folder
    stamp = run(ToyStamp(), {"image": sandbox.given}, stub, model=ModelRequest(""), out=sandbox.root / "stamp").folder
    record = json.loads((stamp / "run.json").read_text())
    (stamp / "run.json").write_text(json.dumps({**record, "status": "interrupted"}))
    sandbox.kept = (*sandbox.kept, "fade", "stamp")
    return fade, stamp


def done_again(source: Path, new: Path, trust: bool) -> object:
    return rerun(source, resolve_method=resolve, load_model=stub, out=new, trust=trust)


@given(st.data())
@fuzzed
def test_any_change_of_a_run_s_record(finished: tuple[Path, Path], sandbox: Sandbox, data: st.DataObject) -> None:
    folder = data.draw(st.sampled_from(finished))
    place = sandbox.fresh(folder)
    record = json.loads((folder / "run.json").read_text())
    content = data.draw(tampered([record]).map(as_bytes) | damaged([as_bytes(record)]) | st.sampled_from(NESTED))
    (place / "run.json").write_bytes(content)
    for call in (
        partial(read_record, place),
        partial(compare, place, folder),
        partial(done_again, place, sandbox.new, False),
        partial(resume, place, resolve_method=resolve, load_model=stub),
    ):
        reads_or_refuses(call)
        sandbox.untouched()


@pytest.fixture(scope="module")
def foldered(sandbox: Sandbox) -> Path:
    """The folder of a run that took a folder and made one and a table, and that can be gone on with."""
    (sandbox.root / "texts").mkdir()
    (sandbox.root / "texts" / "a.txt").write_text("one")
    folder = run(ToyUpper(), {"data": sandbox.root / "texts"}, stub, model=ModelRequest(""), out=sandbox.root / "upper").folder
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "status": "interrupted"}))
    sandbox.kept = (*sandbox.kept, "texts", "upper")
    return folder


@given(st.data())
@fuzzed
def test_any_change_of_the_record_of_a_run_with_folders(foldered: Path, sandbox: Sandbox, data: st.DataObject) -> None:
    place = sandbox.fresh(foldered)
    record = json.loads((foldered / "run.json").read_text())
    (place / "run.json").write_bytes(data.draw(tampered([record]).map(as_bytes)))
    for call in (
        partial(read_record, place),
        partial(read_record, place / "lengths.csv"),
        partial(read_record, place / "capitals"),
        partial(compare, place, foldered),
        partial(done_again, place, sandbox.new, False),
        partial(resume, place, resolve_method=resolve, load_model=stub),
    ):
        reads_or_refuses(call)
        sandbox.untouched()
        assert (sandbox.root / "texts" / "a.txt").read_text() == "one"


@given(st.data())
@fuzzed
def test_any_change_of_the_record_in_a_picture(finished: tuple[Path, Path], sandbox: Sandbox, data: st.DataObject) -> None:
    source = data.draw(st.sampled_from((finished[0] / "contact-sheet.png", finished[1] / "result.png")))
    record = json.loads(read_metadata(source)["calotype"])
    content = data.draw(tampered([record]).map(as_bytes) | st.sampled_from(NESTED)).decode("utf-8", "replace")
    told = PngInfo()
    told.add_itxt("calotype", content)
    path = sandbox.fresh() / "received.png"
    Pillow.new("RGB", (20, 20)).save(path, pnginfo=told)
    for call in (partial(read_record, path), partial(compare, path, finished[0]), partial(done_again, path, sandbox.new, False)):
        reads_or_refuses(call)
        sandbox.untouched()


@given(st.data())
@fuzzed
def test_any_change_of_a_trusted_record_is_read_or_refused(finished: tuple[Path, Path], sandbox: Sandbox, data: st.DataObject) -> None:
    """Trust lets a record name places; it doesn't make nonsense of it sense. (This method writes to none.)"""
    folder = finished[0]
    place = sandbox.fresh(folder)
    record = json.loads((folder / "run.json").read_text())
    changed = data.draw(tampered([{key: record[key] for key in ("inputs", "arguments", "parameters", "model")}]))
    (place / "run.json").write_bytes(as_bytes({**record, **changed} if isinstance(changed, dict) else changed))
    reads_or_refuses(partial(done_again, place, sandbox.new, True))
    assert (sandbox.root / "precious.txt").read_text() == "mine"


LINKS = {
    "there": {"method": "toy-fade", "give": {"start": "first.png", "gain": 0.5}, "settings": {"num_inference_steps": 2}, "seed": 3},
    "stamp": {"method": "toy-stamp", "give": {"image": "@there:last"}, "model": "", "preset": "paper"},
    "edit": {"method": "design-edit", "give": {"image": "@stamp", "masks": ["first.png"], "remove": ["masks:0"], "pan": [0, 0.1]}},
}


@pytest.fixture(scope="module")
def chained(sandbox: Sandbox) -> Path:
    """The folder of a chain; the record in it is one that was stopped before its last link."""
    links = {name: LINKS[name] for name in ("there", "stamp")}
    run_chain(Chain.of({"links": links}, sandbox.root, resolve), load_model=stub, out=sandbox.root / "chain")
    sandbox.kept = (*sandbox.kept, "chain")
    return sandbox.root / "chain"


@given(st.data())
@fuzzed
def test_any_change_of_a_chain(chained: Path, sandbox: Sandbox, data: st.DataObject) -> None:
    place = sandbox.fresh()
    shutil.copyfile(sandbox.given, place / "first.png")
    (place / "chain.json").write_bytes(data.draw(tampered([{"links": LINKS}]).map(as_bytes) | st.sampled_from(NESTED)))
    reads_or_refuses(partial(Chain.read, place / "chain.json", resolve))
    sandbox.untouched()


@given(st.data())
@fuzzed
def test_any_change_of_a_chain_s_record(chained: Path, sandbox: Sandbox, data: st.DataObject) -> None:
    place = sandbox.fresh(chained)
    record = json.loads((chained / "chain.json").read_text())
    (place / "chain.json").write_bytes(data.draw(tampered([record]).map(as_bytes) | st.sampled_from(NESTED)))
    for call in (
        partial(rerun_chain, place, resolve_method=resolve, load_model=stub, out=sandbox.new),
        partial(resume_chain, place, resolve_method=resolve, load_model=stub),
    ):
        reads_or_refuses(call)
        sandbox.untouched()


PLAN = {
    "edits": [
        {
            "remove": ["first.png", "box:5,5,20,20"],
            "refine": ["box:0,0,9,9"],
            "layers": [
                {
                    "mask": "polygon:10,10 20,10 15,20",
                    "image": "first.png",
                    "dx": 0.2,
                    "dy": 0,
                    "scale": 0.8,
                    "flip": "h",
                    "erase": True,
                    "hidden_by": "first.png",
                }
            ],
        },
        {"pan": [0.2, 0.1]},
        {"zoom_out": 1.5},
        {"swap": ["box:1,1,9,9", "box:20,20,30,30"]},
    ]
}


@given(tampered([PLAN]).map(as_bytes) | damaged([as_bytes(PLAN)]) | st.sampled_from(NESTED))
@fuzzed
def test_any_change_of_a_plan(sandbox: Sandbox, content: bytes) -> None:
    path = sandbox.fresh() / "plan.json"
    path.write_bytes(content)
    reads_or_refuses(partial(Plan.read, path))
    reads_or_refuses(partial(recorded, {"image": sandbox.given, "plan": str(path)}))
    text = content.decode("utf-8", "replace")
    if text.lstrip().startswith("{"):
        reads_or_refuses(partial(named_files, {"plan": text}))
    sandbox.untouched()


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bytes]]:
    """Files of kept inputs and of a token."""
    folder = tmp_path_factory.mktemp("tensors")
    ramp = torch.linspace(0, 1, 5 * 6).reshape(5, 6)
    kept: list[Image | Mask | Video | Volume] = [
        Image(ramp.expand(3, 5, 6).contiguous()),
        Mask(ramp > 0.5),
        Video(ramp.expand(2, 3, 5, 6).contiguous(), 8.0),
        Volume.from_numpy(np.ones((3, 4, 5), np.float32), np.diag([1, 1, 2, 1.0]), "ppm"),
    ]
    for number, value in enumerate(kept):
        write_exact(value, folder / f"{number}.safetensors")
    Token(("house", "tree"), torch.zeros(3, 8), {"model": "toy-t2i", "context": "a {}"}).save(folder / "token.safetensors")
    return {
        "exact": [(folder / f"{number}.safetensors").read_bytes() for number in range(len(kept))],
        "token": [(folder / "token.safetensors").read_bytes()],
    }


READERS: dict[str, Callable[[Path], object]] = {"exact": read_exact, "token": Token.load}


@pytest.mark.parametrize("kind", ["exact", "token"])
@given(st.data())
@fuzzed
def test_any_damage_of_a_file_of_tensors(tensors: dict[str, list[bytes]], sandbox: Sandbox, kind: str, data: st.DataObject) -> None:
    path = sandbox.fresh() / "received.safetensors"
    path.write_bytes(data.draw(damaged(tensors[kind])))
    reads_or_refuses(lambda: READERS[kind](path))


NO_KIND: dict[str, dict[str, torch.Tensor]] = {
    "empty": {"pixels": torch.zeros(3, 0, 5)},
    "not a number": {"pixels": torch.full((3, 20, 20), float("nan"))},
    "whole numbers": {"pixels": torch.ones(3, 20, 20, dtype=torch.int64)},
    "complex": {"pixels": torch.ones(3, 20, 20, dtype=torch.complex64)},
    "8 bits": {"pixels": torch.ones(3, 20, 20).to(torch.float8_e4m3fn)},
    "flat": {"pixels": torch.ones(20, 20)},
    "two rates": {"frames": torch.ones(2, 3, 20, 20), "fps": torch.tensor([1.0, 2.0], dtype=torch.float64)},
    "rate of another type": {"frames": torch.ones(2, 3, 20, 20), "fps": torch.tensor(1.0)},
    "no rate": {"frames": torch.ones(2, 3, 20, 20), "fps": torch.tensor(float("nan"), dtype=torch.float64)},
}


@pytest.mark.parametrize("case", NO_KIND)
def test_tensors_that_are_no_picture_and_no_clip_are_refused(case: str, tmp_path: Path) -> None:
    save_file(NO_KIND[case], tmp_path / "x.safetensors")
    assert reads_or_refuses(lambda: read_exact(tmp_path / "x.safetensors")) is None


def test_a_header_that_promises_more_than_the_file_has_is_refused(tmp_path: Path) -> None:
    header = b'{"pixels":{"dtype":"F32","shape":[3,4294967296,4294967296],"data_offsets":[0,0]}}'
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    assert reads_or_refuses(lambda: read_exact(tmp_path / "x.safetensors")) is None


@given(tampered([{"step": 3, "seed": 0, "batch_size": 2, "ema_updates": 3, "tensors": "state-3.safetensors"}]).map(as_bytes))
@fuzzed
def test_any_change_of_the_state_of_a_training(sandbox: Sandbox, content: bytes) -> None:
    (sandbox.fresh() / "state.json").write_bytes(content)
    reads_or_refuses(lambda: read_counters(sandbox.place))


def test_the_unchanged_files_are_read(
    finished: tuple[Path, Path], chained: Path, sandbox: Sandbox, tensors: dict[str, list[bytes]]
) -> None:
    """What the tests above change is whole before."""
    assert isinstance(reads_or_refuses(partial(read_record, finished[0])), tuple)
    place = sandbox.fresh(finished[1])
    assert reads_or_refuses(partial(resume, place, resolve_method=resolve, load_model=stub)) is not None
    shutil.copyfile(sandbox.given, place / "first.png")
    (place / "chain.json").write_bytes(as_bytes({"links": LINKS}))
    assert len(Chain.read(place / "chain.json", resolve).links) == 3
    (place / "plan.json").write_bytes(as_bytes(PLAN))
    shutil.copyfile(sandbox.given, place / "first.png")
    assert len(Plan.read(place / "plan.json").edits) == 4
    assert named_files({"plan": json.dumps(PLAN)}) == [("plan", "first.png")] * 3
    for kind, files in tensors.items():
        for content in files:
            (place / "x.safetensors").write_bytes(content)
            assert READERS[kind](place / "x.safetensors") is not None
