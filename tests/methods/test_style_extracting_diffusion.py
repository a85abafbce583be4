"""Style-extracting diffusion: samples of the training, the training itself, and data sets that are made, stopped and gone on with."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import calotype
from calotype.core.artifacts import DatasetFolder
from calotype.core.events import Events
from calotype.data.raw import Intensity
from calotype.data.segmentation_folder import Pair, SegmentationFolder, SegmentationTensors, UnlabelledFolder, write_segmentation
from calotype.errors import Cancelled, DataError, InputError
from calotype.methods.style_extracting_diffusion import StyleExtractingDiffusion
from calotype.methods.style_extracting_diffusion.recolouring import STAINS, recoloured, restained
from calotype.methods.style_extracting_diffusion.training import StyleExtractingDiffusionTraining
from calotype.methods.style_extracting_diffusion.windows import StyledWindows
from calotype.train.rng import BatchRng
from tests.recorder import Recorder
from tests.tiny import cached
from tests.tiny_style import SIDE, cached_style_model, tissue_folder
from tests.tolerance import close

METHOD = StyleExtractingDiffusion(num_inference_steps=2, batch_size=2, num_styles=2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    home = tmp_path_factory.mktemp("tissue")
    return tissue_folder(home / "labelled"), tissue_folder(home / "plain", patients=4, seed=1)


@pytest.fixture(scope="module")
def model() -> Any:
    return calotype.load(str(cached_style_model()), device="cpu")


def training(styles: Path | str = "", **changes: Any) -> StyleExtractingDiffusionTraining:
    settings = {
        "styles": str(styles), "vae": str(cached("toy-vae")), "window": (32, 32), "block_out_channels": (8, 16), "norm_num_groups": 4,
        "style_width": 12, "encoder_channels": (8, 8), "style_injection": "mid", "batch_size": 2,
        "held_out_samples": 4, "optimizer": "adamw",
    }  # fmt: skip
    return StyleExtractingDiffusionTraining(**{**settings, **changes})


def tensors(patients: int, shade: float) -> SegmentationTensors:
    """Two pictures a patient, all of one grey level of the patient's own."""
    levels = torch.arange(patients).repeat_interleave(2) / 100 + shade
    masks = torch.zeros(2 * patients, 40, 40, dtype=torch.int64)
    masks[:, :20] = 1
    return SegmentationTensors(levels.view(-1, 1, 1, 1).expand(-1, 3, 40, 40), masks, tuple(f"p{i // 2}" for i in range(2 * patients)))


@pytest.mark.parametrize("sampler", ["augmented", "nearby", "multi"])
def test_a_samples_style_is_its_patients(sampler: Any) -> None:
    windows = StyledWindows(tensors(5, 0.2), tensors(5, 0.6), (24, 24), sampler=sampler, plain_share=0.5)
    found = windows.rows(range(40))
    assert torch.allclose(found["styles"].mean((1, 2, 3, 4)), found["image"].mean((1, 2, 3)), atol=1e-5)
    plain = found["layout"].flatten(1).amin(1) < 0
    assert 8 < int(plain.sum()) < 32
    assert bool((found["image"].mean((1, 2, 3))[plain] > 0.5).all())
    assert torch.equal(windows.rows([7])["styles"][0], found["styles"][7])


@pytest.mark.parametrize("by", ["hue", "stains"])
def test_a_sample_and_its_styles_are_recoloured_alike(by: Any) -> None:
    picture = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    image, styles = recoloured(picture, picture[:, None].expand(-1, 2, -1, -1, -1), 1.0, BatchRng(0, 0, range(6), 6), by)
    close(styles, image[:, None].expand_as(styles), depth=4)
    change = (image - picture).abs().mean((1, 2, 3))
    assert bool((change > 0.02).all())
    assert len({round(float(value), 5) for value in change}) == 6  # each sample has a colour of its own


def test_a_stain_keeps_its_hue_when_it_is_restained() -> None:
    amounts = torch.linspace(0.1, 1.0, 16).view(1, 1, 4, 4)
    for stain in STAINS:
        picture = torch.exp(-amounts * torch.tensor(stain).view(1, 3, 1, 1))
        ratio = restained(picture, 1.0, BatchRng(0, 0, range(1), 1)).log() / picture.log()
        close(ratio, ratio.mean().expand_as(ratio), depth=20)
        assert 0.5 <= float(ratio.mean()) <= 2.0
    close(restained(picture, 0.0, BatchRng(0, 0, range(1), 1)), picture, depth=20)


def test_no_patient_is_trained_on_and_held_out() -> None:
    train, held_out = StyledWindows(tensors(6, 0.2), tensors(6, 0.6), (24, 24)).split(0.3)
    seen = [{round(float(value), 4) for value in part.rows(range(60))["image"].mean((1, 2, 3))} for part in (train, held_out)]
    assert seen[0].isdisjoint(seen[1])


def test_several_styles_need_several_pictures() -> None:
    with pytest.raises(InputError, match="come from `multi`"):
        StyledWindows(tensors(2, 0.2), None, (24, 24), sampler="nearby", num_styles=2)
    with pytest.raises(InputError, match="has no window"):
        StyledWindows(tensors(2, 0.2), None, (48, 24))


@pytest.fixture(scope="module")
def straight(folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training(folders[1])(folders[0], tmp_path_factory.mktemp("trained") / "model", budget="3steps", device="cpu")


def test_it_trains_and_makes_a_data_set(straight: Path, folders: tuple[Path, Path]) -> None:
    facts = json.loads((straight / "training.json").read_text())
    assert facts["styles"] == str(folders[1])
    assert facts["status"] == "finished"
    assert list((straight / "training").glob("sheets/*.png"))
    loaded = calotype.load(str(straight), device="cpu")
    assert (loaded.role, loaded.num_classes, loaded.class_values, loaded.size) == ("LayoutStyleToImage", 3, (0, 100, 200), (32, 32))
    made = METHOD(loaded, DatasetFolder(folders[0]), DatasetFolder(folders[1]), count=3)
    data = SegmentationFolder.open(made.path, classes=(0, 100, 200), empty_masks=True)
    assert len(data) == 3
    assert data.sizes == ((32, 32),) * 3


def test_killed_it_goes_on_to_the_same_bits(straight: Path, folders: tuple[Path, Path], tmp_path: Path) -> None:
    class Stops(Events):
        left = 2

        def check(self) -> None:
            self.left -= 1
            if self.left < 0:
                raise Cancelled("stop")

    with pytest.raises(Cancelled):
        training(folders[1])(folders[0], tmp_path / "model", budget="3steps", device="cpu", events=Stops(), save_every=0.0)
    training(folders[1])(folders[0], tmp_path / "model", budget="3steps", device="cpu")
    for part in ("unet", "conditioner"):
        name = f"{part}/diffusion_pytorch_model.safetensors"
        assert (tmp_path / "model" / name).read_bytes() == (straight / name).read_bytes()


def test_without_plain_pictures_it_learns_from_labelled_ones_and_says_so(folders: tuple[Path, Path], tmp_path: Path) -> None:
    recorder = Recorder()
    training()(folders[0], tmp_path / "model", budget="1steps", device="cpu", events=recorder)
    assert any("no plain pictures" in note for note in recorder.notes)


def test_a_frozen_encoder_stays_as_it_was_drawn(folders: tuple[Path, Path], tmp_path: Path) -> None:
    for train_encoder in (False, True):
        asked = training(folders[1], train_encoder=train_encoder)
        data = asked.data_set(folders[0], tmp_path / "kept")
        trainee = asked.build(data, seed=0)
        source = asked.source(trainee, data, "cpu")
        # The block that lets the style in begins with zeros, through which nothing is learnt.
        torch.nn.init.normal_(trainee.conditioner.block.conv2.weight, std=0.1)
        trainee(source.batch(range(8), BatchRng(0, 0, range(8), 8), augment=False)).mean().backward()
        gradient = trainee.conditioner.convs[0].weight.grad
        assert (gradient is not None and bool(gradient.any())) is train_encoder
        assert bool(trainee.conditioner.layout.weight.grad.any())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"window": (36, 36)}, "must be multiples of 8"),
        ({"plain_share": 1.0}, "plain_share"),
        ({"recolour": 2.0}, "recolour"),
        ({"vae": "nowhere"}, "no model 'nowhere'"),
        ({"block_out_channels": (6, 16)}, "must divide"),
    ],
)
def test_numbers_that_fit_nothing_are_refused(folders: tuple[Path, Path], tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        training(folders[1], **changes)(folders[0], tmp_path / "model", budget="1steps", device="cpu")
    assert not list(tmp_path.rglob("*.json"))


def test_faults_of_either_folder_are_told_first(folders: tuple[Path, Path], tmp_path: Path) -> None:
    broken = tmp_path / "plain"
    shutil.copytree(folders[1], broken)
    next((broken / "images").iterdir()).write_bytes(b"no picture")
    with pytest.raises(DataError, match="is a text file"):
        training(broken)(folders[0], tmp_path / "model", budget="1steps", device="cpu")


def test_a_made_set_says_where_everything_is_from(model: Any, folders: tuple[Path, Path]) -> None:
    made = METHOD(model, DatasetFolder(folders[0]), DatasetFolder(folders[1]), count=5, seed=3)
    with (made.path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    drawn, plain = SegmentationFolder.open(folders[0], empty_masks=True), UnlabelledFolder.open(folders[1])
    patients = dict(zip((row.files["image"].path for row in plain.content), plain.patients, strict=True))
    for row in rows:
        assert {patients[style] for style in row["style"].split()} == {row["patient"]}
        assert row["layout"] in {sample.files["mask"].path for sample in drawn.content}
    assert len({row["patient"] for row in rows[:4]}) == 4
    again = METHOD(model, DatasetFolder(folders[0]), DatasetFolder(folders[1]), count=3, seed=3)
    assert (again.path / "images/made000002.png").read_bytes() == (made.path / "images/made000002.png").read_bytes()


def test_where_annotated_pictures_are_grey_made_ones_are(model: Any, folders: tuple[Path, Path], tmp_path: Path) -> None:
    mask = torch.zeros(SIDE, SIDE, dtype=torch.int64)
    mask[0], mask[1] = 1, 2
    grey = write_segmentation(tmp_path / "grey", [Pair("a", torch.rand(1, SIDE, SIDE), mask)], class_values=(0, 100, 200))
    made = METHOD(model, DatasetFolder(grey), DatasetFolder(folders[1]), count=1)
    assert SegmentationFolder.open(made.path, classes=(0, 100, 200)).channels == 1


class Kept(Events):
    """Keeps states, and stops after so many batches."""

    def __init__(self, batches: int) -> None:
        self.states: dict[str, dict[str, Tensor]] = {}
        self.left, self.calls = batches, 0.0

    def save_state(self, key: str, tensors: Any) -> None:
        self.states[key] = dict(tensors)

    def load_state(self, key: str) -> dict[str, Tensor] | None:
        return self.states.get(key)

    def metric(self, name: str, value: float) -> None:
        self.calls += value

    def check(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Cancelled("stop")


def test_a_stopped_run_goes_on_in_the_middle(model: Any, folders: tuple[Path, Path]) -> None:
    given = (DatasetFolder(folders[0]), DatasetFolder(folders[1]))
    whole = METHOD(model, *given, count=5)
    kept = Kept(1)
    with pytest.raises(Cancelled):
        METHOD(model, *given, count=5, events=kept)
    kept.left, kept.calls = 100, 0.0
    resumed = METHOD(model, *given, count=5, events=kept)
    assert kept.calls == 2 * METHOD.num_inference_steps  # both branches of the last picture
    for path in sorted(whole.path.rglob("*.png")):
        assert path.read_bytes() == (resumed.path / path.relative_to(whole.path)).read_bytes()


def test_a_run_tells_its_model_calls_once_for_all_batches(model: Any, folders: tuple[Path, Path]) -> None:
    recorder = Recorder()
    METHOD(model, DatasetFolder(folders[0]), DatasetFolder(folders[1]), count=5, events=recorder)
    assert recorder.heard.count("metric model_calls") == 1
    assert recorder.metrics["model_calls"] == 5 * 2 * METHOD.num_inference_steps


def test_layouts_of_other_classes_are_refused(model: Any, folders: tuple[Path, Path], tmp_path: Path) -> None:
    other = write_segmentation(tmp_path / "other", [Pair("a", torch.rand(3, SIDE, SIDE), torch.ones(SIDE, SIDE, dtype=torch.int64))])
    with pytest.raises(DataError, match="the values 255 are no class"):
        METHOD(model, DatasetFolder(other), DatasetFolder(folders[1]), count=1)
    with pytest.raises(InputError, match="style-extracting-diffusion needs a model of layouts and styles"):
        METHOD(calotype.load(str(cached("toy-vae"))), DatasetFolder(folders[0]), DatasetFolder(folders[1]))


def test_more_guidance_means_more_style(model: Any) -> None:
    layouts = torch.randint(3, (1, SIDE, SIDE), generator=torch.Generator().manual_seed(1))
    styles = torch.rand(1, 2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    none, some, more = (
        dataclasses.replace(METHOD, guidance_scale=max(1.0, scale)).generate(model, layouts, styles if scale else None)
        for scale in (0.0, 1.0, 4.0)
    )
    assert float((more - none).abs().mean()) > float((some - none).abs().mean()) > 0


def test_a_grey_set_goes_on_to_the_same_bits_too(model: Any, folders: tuple[Path, Path], tmp_path: Path) -> None:
    mask = torch.zeros(SIDE, SIDE, dtype=torch.int64)
    mask[8:20, 8:20] = 1
    pairs = [Pair(name, torch.rand(1, SIDE, SIDE), mask) for name in "ab"]
    given = (DatasetFolder(write_segmentation(tmp_path / "grey", pairs, class_values=(0, 100, 200))), DatasetFolder(folders[1]))
    whole, kept = METHOD(model, *given, count=4), Kept(1)
    with pytest.raises(Cancelled):
        METHOD(model, *given, count=4, events=kept)
    kept.left = 100
    resumed = METHOD(model, *given, count=4, events=kept)
    for path in sorted(whole.path.rglob("*.png")):
        assert path.read_bytes() == (resumed.path / path.relative_to(whole.path)).read_bytes()


def test_styles_are_read_as_the_training_read_them(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """16 bits of the training's window stay that window, whatever the styles' own range is."""
    deep = [Pair(f"p{i}", 0.5 * torch.rand(1, 40, 40), torch.zeros(40, 40, dtype=torch.int64), {"patient": f"p{i}"}) for i in range(3)]
    for pair in deep:
        pair.mask[:20] = 1
    data = write_segmentation(tmp_path / "deep", deep, depth=16)
    made = training(intensity=(0, 40_000), merge=True)(data, tmp_path / "model", budget="1steps", device="cpu")
    loaded = calotype.load(str(made), device="cpu")
    assert loaded.intensity == Intensity(16, 0, 40_000)
    recorder = Recorder()
    METHOD(loaded, DatasetFolder(data), DatasetFolder(data), count=1, events=recorder)
    assert not any("another depth" in note for note in recorder.notes)
    METHOD(loaded, DatasetFolder(data), DatasetFolder(folders[1]), count=1, events=recorder)
