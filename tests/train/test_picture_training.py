"""A training on a folder of pictures from end to end: flow matching with a network of one layer, read by any number of workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from calotype.core.denoiser import Preconditioner, Rates, flow_timestep
from calotype.core.events import SILENT, Events
from calotype.data import PictureFolder
from calotype.data.manifest import NAME
from calotype.errors import Cancelled, DataError
from calotype.imaging.types import Image
from calotype.train.recipe import Settings
from calotype.train.rng import BatchRng
from calotype.train.streaming import StreamedSource
from calotype.train.training import Training
from tests.recorder import Recorder


class Flow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Conv2d(3, 3, 3, padding=1)
        self.preconditioner = Preconditioner("flow", flow_timestep)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        rates = Rates.of_flow_time(batch["time"].view(-1, 1, 1, 1))
        seen, target = self.preconditioner.example(batch["image"], batch["noise"], rates)
        loss: Tensor = (self.network(seen).float() - target).square().flatten(1).mean(1)
        return loss


class Pictures(StreamedSource):
    def inputs(self, rows: dict[str, Tensor], rng: BatchRng, *, augment: bool) -> dict[str, Tensor]:
        image = rows["image"] * 2.0 - 1.0
        return {"image": image, "noise": rng.normal(image.shape[1:]), "time": rng.stratified()}


@dataclass(frozen=True, kw_only=True)
class FlowTraining(Training):
    slug: ClassVar[str] = "flow-test"
    batch_size: int = 3
    workers: int = 0

    def settings(self) -> Settings:
        return Settings(batch_size=self.batch_size, held_out=4, held_out_often=2, warmup_steps=1)

    def data_set(self, data: Path, kept: Path, events: Events = SILENT) -> PictureFolder:
        return PictureFolder.open(data, size=(16, 16), manifest=kept / NAME)

    def check(self, data: PictureFolder, events: object = None) -> None:
        pass

    def build(self, data: Any, *, seed: int, start: Path | None = None) -> Flow:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Flow()

    def source(self, trainee: Flow, data: PictureFolder, device: str) -> Pictures:
        return Pictures(data, device, workers=self.workers)

    def write(self, trainee: Flow, folder: Path) -> None:
        save_file(trainee.network.state_dict(), folder / "flow.safetensors")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("pictures")
    for number in range(8):
        pixels = np.random.Generator(np.random.PCG64(number)).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.from_numpy(pixels).save(home / f"{number}.png")
    return home


@pytest.fixture(scope="module")
def straight(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The weights after 7 steps without a break: more than two passes."""
    out = FlowTraining()(pictures, tmp_path_factory.mktemp("straight") / "flow", budget="7steps", device="cpu")
    return load_file(out / "flow.safetensors")


@pytest.mark.parametrize("workers", [0, 2])
def test_stopped_and_read_by_any_workers_it_gives_the_same_bits(
    pictures: Path, straight: dict[str, Tensor], tmp_path: Path, workers: int
) -> None:
    for stop in (4, 3):
        with pytest.raises(Cancelled):
            FlowTraining(workers=workers)(pictures, tmp_path / "flow", budget="7steps", device="cpu", events=Recorder(stop_after=stop))
    FlowTraining(workers=workers)(pictures, tmp_path / "flow", budget="7steps", device="cpu")
    found = load_file(tmp_path / "flow" / "flow.safetensors")
    assert all(torch.equal(found[name], straight[name]) for name in straight)


def test_a_folder_is_mended_and_trained_on(pictures: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for path in pictures.iterdir():
        (data / path.name).write_bytes(path.read_bytes())
    (data / "9.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"a problem: 9\.png"):
        FlowTraining()(data, tmp_path / "flow", budget="1steps", device="cpu")
    (data / "9.png").unlink()
    out = FlowTraining()(data, tmp_path / "flow", budget="1steps", device="cpu")
    assert (out / "training" / "data" / NAME).is_file()
    assert (out / "flow.safetensors").is_file()
