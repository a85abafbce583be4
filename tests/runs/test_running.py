"""Run folders: what they hold, rerun, resume after a stop, compare; and what happens when something goes wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image as Pillow

from calotype.core.events import Events
from calotype.errors import CalotypeError, Cancelled, InputError
from calotype.imaging.media import read_metadata
from calotype.imaging.types import Image
from calotype.runs import ModelRequest, Run, compare, read_record, rerun, resume, run
from calotype.runs.environment import differences
from tests.runs.toy_method import ToyFade, Wobble

NO_MODEL = ModelRequest("")


class StopsAt(Events):
    """Asks for a stop at a step, as Ctrl-C does; `times` remembers how often previews were made."""

    def __init__(self, step: int = 0) -> None:
        self.at = step
        self.steps = 0
        self.notes: list[str] = []

    def step(self, advance: int = 1) -> None:
        self.steps += advance

    def note(self, message: str) -> None:
        self.notes.append(message)

    def check(self) -> None:
        if self.at and self.steps >= self.at:
            raise Cancelled("stopped")


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, Path]:
    folder = tmp_path / "mine"
    folder.mkdir()
    Pillow.linear_gradient("L").convert("RGB").save(folder / "first.png")
    Pillow.radial_gradient("L").convert("CMYK").save(folder / "last.JPG", format="JPEG")
    return {"start": folder / "first.png", "end": folder / "last.JPG"}


def fade(
    pictures: dict[str, Path], out: Path, events: Events | None = None, *, previews: bool = False, seed: int = 7, **fields: object
) -> Run:
    method = ToyFade(**fields)  # type: ignore[arg-type]
    arguments = {**pictures, "gain": 0.5}
    return run(method, arguments, load, model=NO_MODEL, preset="paper", seed=seed, out=out, previews=previews, events=events or Events())


def load(request: ModelRequest) -> None:
    raise AssertionError("this method has no checkpoint")


def again(source: Path, out: Path, **options: object) -> Run:
    return rerun(source, resolve_method=lambda slug: ToyFade, load_model=load, out=out, **options)  # type: ignore[arg-type]


def go_on(folder: Path, events: Events | None = None) -> Run:
    return resume(folder, resolve_method=lambda slug: ToyFade, load_model=load, events=events or Events())


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_run_folder_holds_everything(pictures: dict[str, Path], tmp_path: Path) -> None:
    events = StopsAt()
    done = fade(pictures, tmp_path / "run", events, wobble=Wobble(strength=0.2))
    assert names(done.folder) == {"run.json", "progress.jsonl", "result.mp4", "contact-sheet.png", "inputs/start.png", "inputs/end.jpg"}
    record = json.loads((done.folder / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["parameters"]["wobble"] == {"strength": 0.2, "repeats": 1}
    assert record["arguments"] == {"gain": 0.5}
    assert record["metrics"] == {"model_calls": 8}
    assert record["seed"] == 7
    assert record["inputs"]["end"]["name"] == "last.JPG"
    assert record["environment"]["versions"]["torch"] == torch.__version__
    assert record["environment"]["threads"] == torch.get_num_threads()
    assert record["peak_memory_bytes"]["ram"] > 0
    assert (done.folder / "inputs" / "end.jpg").read_bytes() == pictures["end"].read_bytes()
    assert "end: CMYK converted to RGB" in record["notes"]
    assert events.notes == record["notes"]
    assert json.loads(json.dumps(read_record(done.folder)[0].to_json())) == record
    events_seen = {json.loads(line)["event"] for line in (done.folder / "progress.jsonl").read_text().splitlines()}
    assert {"stage", "step", "metric", "note", "finished"} <= events_seen


@pytest.mark.parametrize("source", ["", "run.json", "result.mp4", "contact-sheet.png"])
def test_a_rerun_is_bit_for_bit_the_same(pictures: dict[str, Path], tmp_path: Path, source: str) -> None:
    done = fade(pictures, tmp_path / "run")
    shutil.rmtree(tmp_path / "mine")
    repeated = again(done.folder / source, tmp_path / "again")
    assert repeated.identical is True
    assert repeated.differences == ()
    for name in ("result.mp4", "contact-sheet.png"):
        assert (done.folder / name).read_bytes() == (repeated.folder / name).read_bytes()
    third = again(repeated.folder / "result.mp4", tmp_path / "third")
    assert third.identical is True


def test_a_result_alone_is_enough(pictures: dict[str, Path], tmp_path: Path) -> None:
    done = fade(pictures, tmp_path / "run")
    alone = tmp_path / "alone.png"
    shutil.copyfile(done.folder / "contact-sheet.png", alone)
    shutil.rmtree(done.folder)
    with pytest.raises(InputError, match=r"reads .*first.png \(start\), reads .*last.JPG \(end\); pass --trust .*--inputs DIR"):
        again(alone, tmp_path / "fails")
    assert again(alone, tmp_path / "from-paths", trust=True).identical is True
    moved = tmp_path / "moved" / "deeper"
    moved.mkdir(parents=True)
    shutil.move(pictures["start"], moved / "renamed.png")
    shutil.move(pictures["end"], moved / "last.JPG")
    with pytest.raises(InputError, match=r"first.png .*was not found.*--inputs DIR"):
        again(alone, tmp_path / "fails", trust=True)
    assert not (tmp_path / "fails").exists()
    assert again(alone, tmp_path / "from-folder", input_folder=tmp_path / "moved").identical is True


def test_a_changed_input_is_not_taken_for_the_old_one(pictures: dict[str, Path], tmp_path: Path) -> None:
    done = fade(pictures, tmp_path / "run")
    Pillow.new("RGB", (64, 64)).save(pictures["start"])
    Pillow.new("RGB", (64, 64)).save(done.folder / "inputs" / "start.png")
    with pytest.raises(InputError, match=r"start: .*was not found"):
        again(done.folder, tmp_path / "again", trust=True)


def test_a_rerun_says_what_differs(pictures: dict[str, Path], tmp_path: Path) -> None:
    done = fade(pictures, tmp_path / "run")
    record = json.loads((done.folder / "run.json").read_text())
    record["environment"]["versions"]["torch"] = "1.0"
    record["environment"]["device"] = "cuda"
    record["outputs"]["result"]["pixels_sha256"] = "0" * 64
    (done.folder / "run.json").write_text(json.dumps(record))
    repeated = again(done.folder, tmp_path / "again")
    assert repeated.identical is False
    assert f"torch 1.0 then, {torch.__version__} now" in repeated.differences
    assert "device cuda then, cpu now" in repeated.differences


def test_results_don_t_tell_whose_computer_it_was(pictures: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    done = fade(pictures, tmp_path / "run")
    told = read_metadata(done.folder / "result.mp4")["calotype"]
    assert str(tmp_path) not in told
    assert json.loads(told)["inputs"]["start"]["path"] == "~/mine/first.png"


@pytest.mark.parametrize("step", [1, 3, 8])
def test_a_stopped_run_goes_on_where_it_was(pictures: dict[str, Path], tmp_path: Path, step: int) -> None:
    whole = fade(pictures, tmp_path / "whole")
    folder = tmp_path / "stopped"
    with pytest.raises(Cancelled, match=f"calotype resume {folder}"):
        fade(pictures, folder, StopsAt(step))
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    assert (folder / "state" / "fade.safetensors").is_file()
    shutil.rmtree(tmp_path / "mine")
    events = StopsAt()
    done = go_on(folder, events)
    assert events.steps == 8
    assert (folder / "result.mp4").read_bytes() == (whole.folder / "result.mp4").read_bytes()
    assert not (folder / "state").exists()
    assert done.record.sessions == 2
    assert done.record.seconds["total"] >= done.record.seconds["method"]


@pytest.mark.parametrize(("fault", "told"), [("stage", "there is no state yet"), ("step", "the state is saved")])
def test_a_stop_tells_whether_there_is_a_state(pictures: dict[str, Path], tmp_path: Path, fault: str, told: str) -> None:
    class Stops(Events):
        began = stopping = False

        def stage(self, name: str, total: int | None = None) -> None:
            self.began = name == "fade"
            self.stopping = self.began and fault == "stage"

        def step(self, advance: int = 1) -> None:
            self.stopping = self.began and advance > 0

        def check(self) -> None:
            if self.stopping:
                raise Cancelled("stopped")

    with pytest.raises(Cancelled, match=f"{told}, .* with: calotype resume"):
        fade(pictures, tmp_path / "run", Stops())


def test_a_stop_at_once_keeps_the_last_state(pictures: dict[str, Path], tmp_path: Path) -> None:
    class Impatient(StopsAt):
        def check(self) -> None:
            if self.steps >= self.at:
                raise KeyboardInterrupt

    with pytest.raises(Cancelled):
        fade(pictures, tmp_path / "stopped", Impatient(5))
    assert (tmp_path / "stopped" / "state" / "fade.safetensors").is_file()


def test_a_finished_run_is_not_run_again(pictures: dict[str, Path], tmp_path: Path) -> None:
    done = fade(pictures, tmp_path / "run")
    before = (done.folder / "run.json").read_bytes()
    events = StopsAt()
    assert go_on(done.folder, events).record == done.record
    assert "finished already" in events.notes[0]
    assert (done.folder / "run.json").read_bytes() == before


def test_nothing_is_overwritten_unasked(pictures: dict[str, Path], tmp_path: Path) -> None:
    done = fade(pictures, tmp_path / "run")
    before = {name: (done.folder / name).read_bytes() for name in names(done.folder)}
    with pytest.raises(InputError, match="--overwrite"):
        fade(pictures, tmp_path / "run")
    assert {name: (done.folder / name).read_bytes() for name in names(done.folder)} == before
    (done.folder / "mine.txt").write_text("kept")
    run(ToyFade(), {"start": pictures["start"]}, load, model=NO_MODEL, out=done.folder, overwrite=True)
    assert names(done.folder) == {"run.json", "progress.jsonl", "result.mp4", "contact-sheet.png", "inputs/start.png", "mine.txt"}
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        fade(pictures, tmp_path / "file")


def test_bad_input_leaves_no_folder(pictures: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"start: .* does not exist"):
        fade({"start": tmp_path / "absent.png"}, tmp_path / "run")
    with pytest.raises(InputError, match="no such argument"):
        fade({**pictures, "middle": pictures["start"]}, tmp_path / "run")
    with pytest.raises(InputError, match="start: nothing was given"):
        fade({"end": pictures["end"]}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_failure_is_recorded_and_says_where_the_traceback_is(pictures: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="half way"):
        fade(pictures, tmp_path / "error", fault="error")
    record = json.loads((tmp_path / "error" / "run.json").read_text())
    assert (record["status"], record["error"]) == ("failed", "fault: half way there was an error; choose none")
    with pytest.raises(CalotypeError, match="ZeroDivisionError") as failure:
        fade(pictures, tmp_path / "strange", fault="strange")
    assert "\n" not in str(failure.value)
    assert "ZeroDivisionError" in (tmp_path / "strange" / "traceback.log").read_text()


def test_pictures_in_memory_are_kept_exactly(tmp_path: Path) -> None:
    start = Image(torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(1)))
    done = run(ToyFade(), {"start": start}, load, model=NO_MODEL, out=tmp_path / "run")
    assert again(done.folder, tmp_path / "again").identical is True


def test_previews_are_written_when_asked_for(pictures: dict[str, Path], tmp_path: Path) -> None:
    done = fade(pictures, tmp_path / "run", previews=True)
    made = sorted((done.folder / "previews").glob("*.png"))
    assert made
    Pillow.open(made[0]).load()
    assert fade(pictures, tmp_path / "same").record.outputs["result"]["sha256"] == done.record.outputs["result"]["sha256"]


def test_two_processes_don_t_share_a_folder(pictures: dict[str, Path], tmp_path: Path) -> None:
    class Intruder(StopsAt):
        def step(self, advance: int = 1) -> None:
            if self.steps == 2:
                with pytest.raises(InputError, match="another process"):
                    go_on(tmp_path / "run")
            super().step(advance)

    fade(pictures, tmp_path / "run", Intruder())


def test_comparing_shows_what_differs(pictures: dict[str, Path], tmp_path: Path) -> None:
    first, second = fade(pictures, tmp_path / "a"), fade(pictures, tmp_path / "b", seed=8, num_inference_steps=5)
    comparison = compare(first.folder, second.folder / "result.mp4")
    differing = {(line.section, line.name): (line.left, line.right) for line in comparison.lines if not line.same}
    assert differing["run", "seed"] == (7, 8)
    assert differing["parameters", "num_inference_steps"] == (8, 5)
    assert ("parameters", "num_frames") not in differing
    assert "PSNR" in compare(first.folder, second.folder).lines[-1].right
    assert compare(first.folder, again(first.folder, tmp_path / "c").folder).lines[-1].right == "bit for bit the same"
    json.dumps(comparison.to_json(), allow_nan=False)


def test_other_files_are_no_runs(pictures: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "some.json").write_text("{}")
    (tmp_path / "broken.json").write_text("{")
    for source in (pictures["start"], tmp_path, tmp_path / "some.json", tmp_path / "broken.json", tmp_path / "absent"):
        with pytest.raises(InputError) as refusal:
            read_record(source)
        assert "\n" not in str(refusal.value)


def test_environments_that_agree_have_no_differences() -> None:
    assert (
        differences(
            {"versions": {"torch": "2"}, "device": "cpu", "threads": 1}, {"versions": {"torch": "2"}, "device": "cpu", "threads": 1}
        )
        == []
    )


def test_global_state_is_left_alone(pictures: dict[str, Path], tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    fade(pictures, tmp_path / "run")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.are_deterministic_algorithms_enabled()
