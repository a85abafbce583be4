"""The recipe of toy-subject: what it begins with, what it sees, what it writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import calotype
from calotype.core.events import SILENT
from calotype.embedded.export import read_gates
from calotype.embedded.subject import CREATURE_WORDS, SAME_PICTURE, SubjectRecipe, subject_scene
from calotype.embedded.tokenizer import build_tokenizer, world_words
from calotype.embedded.validation_subject import validate
from calotype.errors import MissingError
from calotype.train.rng import BatchRng
from calotype.world.creatures.drawing import sample_creature
from tests.train import narrow


def test_a_creatures_caption_is_one_token_a_word_and_old_words_are_cut_as_before() -> None:
    new, old = build_tokenizer((*world_words(), *CREATURE_WORDS)), build_tokenizer(world_words())
    for index in range(40):
        caption = sample_creature(index=index).caption
        assert len(new(caption).input_ids) == len(caption.split()) + 2
    caption = "a red ball left of a blue house at night"
    assert new.convert_ids_to_tokens(new(caption).input_ids) == old.convert_ids_to_tokens(old(caption).input_ids)


def test_seven_in_ten_subject_pictures_are_the_target_itself() -> None:
    scenes = [sample_creature(seed=3, index=index) for index in range(400)]
    subjects = [subject_scene(scene) for scene in scenes]
    same = [one.creature == scene.creature for one, scene in zip(subjects, scenes, strict=True)]
    assert sum(same) / 400 == pytest.approx(SAME_PICTURE, abs=0.06)
    assert all(one.creature.look == scene.creature.look for one, scene in zip(subjects, scenes, strict=True))
    others = [one.creature.pose != scene.creature.pose for one, scene, equal in zip(subjects, scenes, same, strict=True) if not equal]
    assert all(others)


def test_it_begins_with_the_base_models_embeddings(family: Path) -> None:
    from transformers import CLIPTextModel, CLIPTokenizer

    trainee = narrow.NarrowSubject().build(seed=0, start=None, checkpoints=family)
    old, before = CLIPTokenizer.from_pretrained(family / "toy-t2i" / "tokenizer"), CLIPTextModel.from_pretrained(
        family / "toy-t2i" / "text_encoder", dtype=torch.float32
    )  # fmt: skip
    table, known = trainee.text_encoder.get_input_embeddings().weight, trainee.tokenizer.get_vocab()
    for token in ("sand</w>", "a</w>", "<|endoftext|>"):
        assert torch.equal(table[known[token]], before.get_input_embeddings().weight[old.get_vocab()[token]])
    assert trainee.text_encoder.config.eos_token_id == trainee.tokenizer.eos_token_id


def test_dropout_makes_all_four_kinds_of_samples(family: Path, tmp_path: Path) -> None:
    recipe = narrow.NarrowSubject()
    trainee = recipe.build(seed=0, start=None, checkpoints=family)
    source = recipe.source(trainee, split="train", seed=0, folder=tmp_path, checkpoints=family, start=None, device="cpu")
    kinds = set()
    for step in range(40):
        batch = source.batch([0, 1, 2, 3], BatchRng(0, step, range(4), 4), augment=True)
        for tokens, shown in zip(batch["tokens"], batch["has_subject"], strict=True):
            text = "empty" if bool((tokens == source.empty).all()) else "bare" if bool((tokens == source.bare).all()) else "caption"
            kinds.add((text, bool(shown)))
    assert kinds == {("caption", True), ("caption", False), ("bare", True), ("empty", False)}
    plain = source.batch([0, 1], BatchRng(0, 0, range(2), 2), augment=False)
    assert bool(plain["has_subject"].all())
    assert trainee(plain).shape == (2,)


def test_it_trains_ships_and_goes_on(family: Path, tmp_path: Path) -> None:
    first = narrow.run("toy-subject", tmp_path / "one", family, "2steps")
    assert first.exported
    assert read_gates(family)["toy-subject"]["steps"] == 2
    model = calotype.load(str(family / "toy-subject"), device="cpu")
    assert model.role == "SubjectToImage"
    assert model.num_visual_rows == 4
    figures = validate(family / "toy-subject", seed=0, count=2, device="cpu", events=SILENT)
    assert figures["recogniser_renders"] == 1.0
    again = narrow.run("toy-subject", tmp_path / "two", family, "1steps")
    assert again.held_out_before is not None  # type: ignore[attr-defined]
    with pytest.raises(MissingError, match="toy-t2i"):
        SubjectRecipe().build(seed=0, start=None, checkpoints=tmp_path)
