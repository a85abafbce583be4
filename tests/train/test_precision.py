"""Trainings compute in bfloat16 where the hardware multiplies it, and in float32 elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from calotype.embedded.networks import seeded
from calotype.train import precision
from calotype.train.muon import Muon, orthogonalise
from calotype.train.precision import precision_for
from tests.train.narrow import RECIPES

CHOOSE = "from calotype.train.precision import precision_for; print(precision_for('cpu').name)"


def chosen(**limits: str) -> str:
    """What a fresh process chooses for the CPU; torch reads its limits when it starts."""
    free = {name: value for name, value in os.environ.items() if name not in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")}
    done = subprocess.run([sys.executable, "-c", CHOOSE], env={**free, **limits}, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("limits", [{"ATEN_CPU_CAPABILITY": "avx2"}, {"ONEDNN_MAX_CPU_ISA": "AVX2"}], ids=str)
def test_a_processor_kept_to_avx2_trains_in_float32(limits: dict[str, str]) -> None:
    assert chosen(**limits) == "float32"


def test_an_unlimited_processor_trains_in_what_its_flags_say() -> None:
    path = Path("/proc/cpuinfo")
    if not path.is_file() or "flags" not in path.read_text():
        pytest.skip("only Linux on x86 lists the processor's flags")
    flags = set(path.read_text().split("flags", 1)[1].splitlines()[0].split())
    assert chosen() == ("bfloat16" if flags & {"avx512_bf16", "amx_bf16"} else "float32")


@pytest.mark.parametrize(
    ("capability", "onednn", "flags", "found"),
    [
        ("AVX512", True, {"avx512_bf16": True}, "avx512_bf16"),
        ("AVX512", True, {"avx512_bf16": True, "amx_bf16": True}, "amx_bf16"),
        ("AVX512", True, {"amx_bf16": False, "avx512_bf16": False}, None),
        ("AVX512", False, {"avx512_bf16": True}, None),
        ("AVX2", True, {"avx512_bf16": True}, None),
        ("DEFAULT", True, {}, None),
        ("SVE256", True, {"bf16": True}, None),
    ],
)
def test_the_precision_follows_the_processor(
    monkeypatch: pytest.MonkeyPatch, capability: str, onednn: bool, flags: dict[str, bool], found: str | None
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags, raising=False)
    assert precision.bfloat16_instructions() == found
    made = precision_for("cpu")
    assert (made.name, made.dtype, made.accelerate) == (("bfloat16", torch.bfloat16, "bf16") if found else ("float32", torch.float32, "no"))
    assert found is None or found in made.reason


@pytest.mark.parametrize(("native", "name"), [(True, "bfloat16"), (False, "float32")])
def test_the_precision_follows_the_gpu(monkeypatch: pytest.MonkeyPatch, native: bool, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert precision_for("cuda:0").name == name


@pytest.mark.parametrize("name", ["bfloat16", "float32"])
def test_network_and_optimiser_compute_in_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: precision.PrecisionName) -> None:
    from calotype.embedded.api import trainer_of
    from calotype.train.budget import Budget
    from calotype.train.loop import accelerator_for

    made = precision.Precision(name, "the test says so")
    monkeypatch.setattr("calotype.train.loop.precision_for", lambda device: made)
    recipe = RECIPES["toy-vae"]
    loop = trainer_of(
        recipe, tmp_path / "run", budget=Budget(steps=1), seed=0, checkpoints=tmp_path / "checkpoints", start=None,
        accelerator=accelerator_for("cpu"),
    )  # fmt: skip
    seen: set[torch.dtype] = set()
    decoder = loop.accelerator.unwrap_model(loop.model).vae.decoder.conv_out
    decoder.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    fitted = loop.fit()
    assert seen == {made.dtype}
    assert fitted.precision == fitted.held_out_precision == name
    module = seeded(0, lambda: torch.nn.Linear(6, 5))
    assert Muon(module, lr=0.1, betas=(0.9, 0.99), weight_decay=0.0, dtype=made.dtype).dtype is made.dtype
    turned = orthogonalise(module.weight.detach(), dtype=made.dtype)
    exact = torch.equal(turned, turned.bfloat16().float())
    assert exact is (name == "bfloat16")
