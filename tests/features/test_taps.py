from __future__ import annotations

import json

import pytest

from calotype.attention import AttentionControl
from calotype.cli import app
from calotype.features import FeatureTap, feature_taps
from tests.attention.networks import call, network
from tests.tiny import cached


@pytest.mark.parametrize("kind", ["sdxl", "svd", "i2vgen", "pixart"])
def test_taps_tell_the_channels_and_the_resolution_that_come_out(kind: str) -> None:
    model = network(kind)
    told = feature_taps(model)
    assert len(told) > 1
    with AttentionControl(model, roles=("a", "b")) as control:
        taps = [control.add(FeatureTap(module=info.module)) for info in told]
        call(kind, model, 2)
    for info, tap in zip(told, taps, strict=True):
        found = tap.tensors[0]
        if info.layout == "tokens":
            assert found.shape[-1] == info.channels, info
        elif found.ndim == 4:
            assert info.stride is not None
            assert tuple(found.shape[1:]) == (info.channels, 8 // info.stride, 8 // info.stride), info


def test_the_command_prints_sites_and_taps(capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(cached("toy-t2i"))
    assert app.run(["models", "--taps", folder]) == 0
    printed = capsys.readouterr().out
    assert "mid_block.attentions.0.transformer_blocks.0.attn2" in printed
    assert "up_blocks.1.resnets.1.conv2" in printed
    assert app.run(["models", "--taps", folder, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (site,) = (site for site in told["sites"] if site["name"].endswith("mid_block.attentions.0.transformer_blocks.0.attn1"))
    assert (site["kind"], site["grid"], site["heads"], site["stride"]) == ("self", [4, 4], 4, 4)
    assert app.run(["models", "--taps", str(cached("toy-vae"))]) == 2
    assert "of the role Autoencoder" in capsys.readouterr().err
