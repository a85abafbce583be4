"""The real recipes at tiny width, and a program that trains one of them, to be killed."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from calotype.embedded import train
from calotype.embedded.i2v import I2VRecipe
from calotype.embedded.qsm import QSMRecipe
from calotype.embedded.subject import SubjectRecipe
from calotype.embedded.t2i import T2IRecipe
from calotype.embedded.vae import VAERecipe
from calotype.methods.qsmdiff.training import QSMDiffTraining


class NarrowVAE(VAERecipe):
    settings = replace(VAERecipe.settings, batch_size=4, held_out=8, held_out_often=4, warmup_steps=4)
    config = {"block_out_channels": (8, 16, 16)}  # noqa: RUF012


class NarrowT2I(T2IRecipe):
    settings = replace(T2IRecipe.settings, batch_size=4, held_out=8, held_out_often=4, warmup_steps=4)
    train_count, tune_count, sheet_count = 32, 8, 2
    unet = {"block_out_channels": (32, 32, 32)}  # noqa: RUF012
    text = {"num_hidden_layers": 1, "intermediate_size": 128}  # noqa: RUF012


class NarrowI2V(I2VRecipe):
    settings = replace(I2VRecipe.settings, batch_size=2, held_out=4, held_out_often=2, warmup_steps=4)
    train_count, tune_count, sheet_count = 8, 4, 1
    unet = {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1, "num_attention_heads": (1, 1, 1, 1)}  # noqa: RUF012
    vision = {"hidden_size": 32, "intermediate_size": 32}  # noqa: RUF012


class NarrowSubject(SubjectRecipe):
    settings = replace(SubjectRecipe.settings, batch_size=4, held_out=8, held_out_often=4, warmup_steps=4)
    train_count, tune_count, sheet_count = 32, 8, 4
    encoder = {"channels": (8, 8, 16, 16)}  # noqa: RUF012


class NarrowQSM(QSMRecipe):
    settings = replace(QSMRecipe.settings, batch_size=2, held_out=4, held_out_often=2, warmup_steps=4)
    training = QSMDiffTraining(channels=(8, 8), norm_num_groups=4)
    train_brains, tune_brains = 2, 1


RECIPES = {recipe.name: recipe for recipe in (NarrowVAE(), NarrowT2I(), NarrowI2V(), NarrowSubject(), NarrowQSM())}


def run(name: str, out: Path, checkpoints: Path, budget: str, **keywords: object) -> object:
    return train(name, budget=budget, out=out, checkpoints=checkpoints, recipe=RECIPES[name], device="cpu", **keywords)  # type: ignore[arg-type]


if __name__ == "__main__":
    torch.set_num_threads(1)
    run("toy-vae", Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], save_every=0.0, export=False)
