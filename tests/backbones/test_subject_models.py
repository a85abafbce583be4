"""The role SubjectToImage: visual rows among the words, causal whatever the libraries do; loaders at small width."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import calotype
from calotype.backbones.context_text import encode_with_rows
from calotype.backbones.quantized import load_quantized, quantize_weights, restore_weights, save_quantized
from calotype.backbones.subject import SubjectToImage
from calotype.errors import InputError, MissingError
from calotype.imaging.types import Image
from tests.tiny_subject import cached_subject
from tests.tolerance import close, layers

KINDS = ("blip", "toy-subject")


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> SubjectToImage:
    loaded: SubjectToImage = calotype.load(str(cached_subject(request.param)), device="cpu")
    return loaded


def picture(seed: int = 0, side: int = 64) -> Image:
    return Image(torch.rand((3, side, side), generator=torch.Generator().manual_seed(seed)))


def test_a_later_token_changes_no_earlier_row(model: SubjectToImage) -> None:
    """diffusers' own encoder fails this under transformers 5: its causal mask is swallowed, so the last word changes the first row."""
    rows = model.subject_rows(picture(), "ball")
    length = model.text_length - model.num_visual_rows
    ids = torch.randint(3, 90, (1, length), generator=torch.Generator().manual_seed(1))
    other = ids.clone()
    other[0, -1] += 1
    first, second = model.encode_rows(ids, rows), model.encode_rows(other, rows)
    assert torch.equal(first[:, :-1], second[:, :-1])
    assert not torch.equal(first[:, -1], second[:, -1])


def test_visual_rows_depend_on_what_stands_before_them_only(model: SubjectToImage) -> None:
    rows = model.subject_rows(picture(), "ball")
    length = model.text_length - model.num_visual_rows
    ids = torch.randint(3, 90, (2, length), generator=torch.Generator().manual_seed(2))
    ids[1, :2] = ids[0, :2]
    states = model.encode_rows(ids, rows.expand(2, -1, -1))
    end = model.begin + model.num_visual_rows
    assert states.shape[1] == model.text_length
    close(states[0, :end], states[1, :end], depth=layers(model.modules["text_encoder"]))  # type: ignore[attr-defined]
    assert not torch.allclose(states[0, end], states[1, end])


def test_words_after_the_subject_see_it(model: SubjectToImage) -> None:
    length = model.text_length - model.num_visual_rows
    ids = torch.randint(3, 90, (1, length), generator=torch.Generator().manual_seed(3))
    one, two = (model.encode_rows(ids, model.subject_rows(picture(seed), "ball")) for seed in (0, 1))
    assert torch.equal(one[:, : model.begin], two[:, : model.begin])
    assert not torch.allclose(one[:, model.begin + model.num_visual_rows], two[:, model.begin + model.num_visual_rows])


def test_without_rows_it_is_the_plain_encoder(model: SubjectToImage) -> None:
    encoder = model.modules["text_encoder"]  # type: ignore[attr-defined]
    ids = torch.randint(3, 90, (2, model.text_length))
    with torch.no_grad():
        close(encode_with_rows(encoder, ids, None), encoder(ids)[0], depth=layers(encoder))


def test_rows_only_where_asked() -> None:
    model = calotype.load(str(cached_subject("toy-subject")), device="cpu")
    encoder = model.modules["text_encoder"]
    ids, rows = torch.randint(3, 90, (2, 24)), torch.randn(2, 4, 64)
    with torch.no_grad():
        mixed = encode_with_rows(encoder, ids, rows, has_rows=torch.tensor([True, False]))
        close(mixed[0], encode_with_rows(encoder, ids, rows)[0], depth=layers(encoder))
        close(mixed[1], encode_with_rows(encoder, ids, None)[1], depth=layers(encoder))


def test_the_subject_and_its_word_reach_the_q_former() -> None:
    model = calotype.load(str(cached_subject("blip")), device="cpu")
    one = model.subject_rows(picture(), "ball")
    assert one.shape == (1, 4, 64)
    assert not torch.allclose(one, model.subject_rows(picture(1), "ball"))
    assert not torch.allclose(one, model.subject_rows(picture(), "house"))


def test_loaders_name_what_is_wrong(tmp_path: Path) -> None:
    folder = tmp_path / "blip"
    shutil.copytree(cached_subject("blip"), folder)
    shutil.rmtree(folder / "qformer_tokenizer")
    with pytest.raises(MissingError, match=r"qformer_tokenizer"):
        calotype.load(str(folder), device="cpu")
    shutil.rmtree(folder / "qformer")
    with pytest.raises(MissingError, match="qformer"):
        calotype.load(str(folder), device="cpu")
    toy = tmp_path / "toy"
    shutil.copytree(cached_subject("toy-subject"), toy)
    config = json.loads((toy / "subject_encoder" / "config.json").read_text())
    (toy / "subject_encoder" / "config.json").write_text(json.dumps({**config, "tokens": 7}))
    with pytest.raises(InputError, match="don't belong together"):
        calotype.load(str(toy), device="cpu")


def test_rounded_weights_come_back_within_half_a_scale(tmp_path: Path) -> None:
    weights = torch.randn(5, 7, 3, 3, generator=torch.Generator().manual_seed(0))
    numbers, scales = quantize_weights(weights)
    assert numbers.dtype == torch.int8
    assert numbers.shape == weights.shape
    assert float((restore_weights(numbers, scales) - weights).abs().max()) <= 0.51 * float(scales.max())
    save_quantized({"w": weights, "b": torch.ones(3), "n": torch.tensor([4])}, tmp_path / "x.safetensors")
    back = load_quantized(tmp_path / "x.safetensors")
    assert set(back) == {"w", "b", "n"}
    assert torch.equal(back["b"], torch.ones(3))
    assert back["n"].item() == 4


def test_it_can_be_used_where_a_text_to_image_model_is_asked_for(model: SubjectToImage) -> None:
    from calotype.methods.anyv2v import AnyV2V
    from calotype.methods.design_edit import DesignEdit

    DesignEdit.refuse_other_roles(model, needs="a text-to-image model")
    with pytest.raises(InputError, match="can't be used: anyv2v needs a video model"):
        AnyV2V.refuse_other_roles(model, needs="a video model")


def test_the_subject_encoder_saves_and_loads_as_diffusers_models_do(tmp_path: Path) -> None:
    from calotype.backbones.subject_encoder import SubjectEncoder

    whole = calotype.load(str(cached_subject("toy-subject")), device="cpu")
    toy = tmp_path / "toy"
    shutil.copytree(cached_subject("toy-subject"), toy)
    shutil.rmtree(toy / "subject_encoder")
    whole.modules["subject_encoder"].save_pretrained(toy / "subject_encoder")
    made = SubjectEncoder.from_pretrained(toy / "subject_encoder")
    assert torch.equal(made(picture().pixels[None]), whole.subject_rows(picture(), ""))
    assert torch.equal(calotype.load(str(toy), device="cpu").subject_rows(picture(), ""), whole.subject_rows(picture(), ""))
