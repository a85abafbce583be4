"""CAGE's public weights (`cvg-unibe/cage_*`, `model.pth`) into `calotype.backbones.official_cage_network`.

Names that our description of the weights has are taken by name; the others by their shape, which is told apart only one way, or the file
is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from calotype.backbones.official_cage_network import FARTHEST, PLACES, OfficialCageTransformer
from calotype.backbones.official_weights import named_weights, read_weights
from calotype.errors import InputError
from calotype.imaging.boundary import refusing

_GIVE = "give model.pth of a cvg-unibe/cage_* repository"
LEFT_OUT = ("dino.", "ae.", "time_projection.")
"""The encoders, which are given as folders, and a part that is never called."""
CONTROLS = ("feats_project_in", "dino_project_in")
CROSS = ".self_attn.in_proj_weight"


def read_official(file: Path, grid: tuple[int, int]) -> OfficialCageTransformer:
    """The network that a file of public weights is of.

    Args:
        file: `model.pth`.
        grid: rows and columns of the latents, which the weights don't say.

    Raises:
        InputError: it can't be read without running code, or holds other weights.
    """
    state = named_weights(read_weights(file, _GIVE), file, _GIVE)
    named = Names({name: value for name, value in state.items() if not name.startswith(LEFT_OUT)}, str(file))
    return named.network(grid)


class Names:
    """Which weight is which.

    Args:
        state: weights by their official names.
        file: for messages.
    """

    def __init__(self, state: Mapping[str, Tensor], file: str) -> None:
        self.left, self.file = dict(state), file
        self.made: dict[str, Tensor] = {}

    def network(self, grid: tuple[int, int]) -> OfficialCageTransformer:
        """The network, with every weight."""
        controls = next((name for name in CONTROLS if f"{name}.weight" in self.left), None)
        if controls is None:
            raise InputError(f"{self.file} has no weights named {' or '.join(CONTROLS)}; {_GIVE}")
        width, feature_width = self.left[f"{controls}.weight"].shape
        for kind in ("weight", "bias"):
            self._take(f"feats_project_in.{kind}", f"{controls}.{kind}")
        crosses = [name.removesuffix(CROSS) for name in self.left if name.endswith(CROSS)]
        for number, prefix in enumerate(crosses):
            for name in self._under(prefix):
                self._take(f"cross.{number}.{name}", f"{prefix}.{name}")
        mixing = [name for name, value in self.left.items() if value.shape == (3 * width, width)]
        spatial = temporal = 0
        head_width = 0
        for key in mixing:
            prefix = _own_prefix(key, mixing)
            distance = [name for name in self._under(prefix) if self._shape(f"{prefix}.{name}")[:1] == (2 * FARTHEST + 1,)]
            into = f"temporal.{temporal}" if distance else f"spatial.{spatial}"
            temporal, spatial = temporal + bool(distance), spatial + (not distance)
            head_width = self._mixing(prefix, into, key, width, distance)
        self._rest(width, feature_width)
        if self.left:
            raise InputError(f"{self.file} has weights that are not known: {', '.join(list(self.left)[:3])}")
        with refusing(self.file, "its weights don't make up the network that its description has"):
            network: OfficialCageTransformer = OfficialCageTransformer(
                latent_channels=len(self.made["out.weight"]), grid=grid, width=width, depth=spatial, heads=width // head_width,
                feature_width=feature_width,
            )  # fmt: skip
            network.load_state_dict(self.made)
        network.eval()
        return network

    def _mixing(self, prefix: str, into: str, qkv: str, width: int, distance: list[str]) -> int:
        """A spatial or temporal layer; the width of its heads."""
        self._take(f"{into}.qkv.weight", qkv)
        for name in distance[:1]:
            self._take(f"{into}.distance", f"{prefix}.{name}")
        for place, shape in (("mlp.0", (4 * width, width)), ("mlp.2", (width, 4 * width))):
            self._layer(f"{into}.{place}", self._only(prefix, shape))
        for number, stem in enumerate(self._norms(prefix, width)):
            self._layer(f"{into}.norm{number + 1}", stem)
        times = [name for name in self._under(prefix) if len(self._shape(f"{prefix}.{name}")) == 2]
        if len(times) != 1:
            raise InputError(f"{self.file}: {len(times)} weights under {prefix} could be those of the time; one is expected")
        head_width = self._shape(f"{prefix}.{times[0]}")[0] // 3
        self._take(f"{into}.time.weight", f"{prefix}.{times[0]}")
        return head_width

    def _rest(self, width: int, feature_width: int) -> None:
        """What is in no layer."""
        for name in ("row", "col"):
            found = [key for key, value in self.left.items() if value.shape == (PLACES, width // 2) and name in key]
            if len(found) != 1:
                raise InputError(f"{self.file}: {len(found)} weights could be the positions' {name}; one is expected")
            self._take("rows.weight" if name == "row" else "columns.weight", found[0])
        self._take("absent", self._one("the mask's features", lambda key, value: value.numel() == feature_width and _stem(key) == key))
        self.made["absent"] = self.made["absent"].flatten()
        self._take("out.weight", self._one("the last convolution", lambda key, value: value.ndim == 4 and value.shape[1] == width))
        self._layer("head.0", _stem(self._one("the head", lambda key, value: value.shape == (width, width))))
        enter = self._one("the first layer", lambda key, value: value.ndim == 2 and len(value) == width)
        self._layer("enter", _stem(enter))
        self._layer("head.2", _stem(self._one("the head's norm", lambda key, value: value.shape == (width,) and key.endswith(".weight"))))

    def _one(self, what: str, matches: object) -> str:
        assert callable(matches)
        found = [key for key, value in self.left.items() if matches(key, value)]
        if len(found) != 1:
            raise InputError(f"{self.file}: {len(found)} weights could be {what}; one is expected")
        return found[0]

    def _only(self, prefix: str, shape: tuple[int, ...]) -> str:
        found = [name for name in self._under(prefix) if self._shape(f"{prefix}.{name}") == shape]
        if len(found) != 1:
            raise InputError(f"{self.file}: {len(found)} weights under {prefix} have the shape {list(shape)}; one is expected")
        return _stem(f"{prefix}.{found[0]}")

    def _norms(self, prefix: str, width: int) -> list[str]:
        """The stems of a layer's two normalisations, in the file's order, which is the order of use."""
        stems = [_stem(f"{prefix}.{name}") for name in self._under(prefix) if name.endswith(".weight")]
        stems = [stem for stem in stems if self._shape(f"{stem}.weight") == (width,)]
        if len(stems) != 2:
            raise InputError(f"{self.file} has {len(stems)} normalisations under {prefix}; two are expected")
        return stems

    def _under(self, prefix: str) -> list[str]:
        return [name.removeprefix(f"{prefix}.") for name in self.left if name.startswith(f"{prefix}.")]

    def _shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.left[name].shape)

    def _layer(self, into: str, stem: str) -> None:
        for kind in ("weight", "bias"):
            self._take(f"{into}.{kind}", f"{stem}.{kind}")

    def _take(self, into: str, name: str) -> None:
        if name not in self.left:
            raise InputError(f"{self.file} has no weights named {name}; fetch it again")
        self.made[into] = self.left.pop(name)


def _stem(key: str) -> str:
    return key.removesuffix(".weight").removesuffix(".bias")


def _own_prefix(key: str, others: list[str]) -> str:
    """The shortest beginning of a name, in whole words, that no other name has.

    >>> _own_prefix("a.1.qkv.weight", ["a.1.qkv.weight", "a.10.qkv.weight"])
    'a.1'
    """
    words = key.split(".")
    for count in range(1, len(words)):
        prefix = ".".join(words[:count])
        if sum(other.startswith(f"{prefix}.") for other in others) == 1:
            return prefix
    return key
