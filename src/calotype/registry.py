"""Finds methods and evaluations by name: those of the index, and those that other packages add by entry points."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from calotype.errors import InputError, MissingError
from calotype.index import ARTIFACTS, EMBEDDED, GATES, METHODS

if TYPE_CHECKING:
    from calotype.core.method import Method

GROUP = "calotype.methods"
"""Entry points of this group are methods: the name is the slug, the value is `module:Class`."""
TRAININGS = "calotype.trainings"
"""Entry points of this group train a method's checkpoints: the name is the slug, the value is `module:Class`, a `Training`."""
EVALUATIONS = "calotype.evaluations"
"""Entry points of this group prove methods: the name is the slug, the value is `module:Class` (`calotype.evaluation.Evaluation`) or
`module:function` (see `calotype.evaluation.evaluate`)."""
ARTIFACT_KINDS = "calotype.artifacts"
"""Entry points of this group are kinds of artifacts: the name is the kind's, the value is `module:KIND` (`calotype.runs.artifact`)."""
_OWN: dict[str, tuple[str, Collection[str]]] = {
    GROUP: ("a method", METHODS),
    TRAININGS: ("a training of", METHODS),
    EVALUATIONS: ("an evaluation of", METHODS),
    ARTIFACT_KINDS: ("an artifact kind", ARTIFACTS),
}
"""By group, what its entry points are called, and the names that calotype has itself."""


@dataclass(frozen=True)
class Plugin:
    """A method, or the evaluation of one, that another package adds."""

    slug: str
    target: str
    package: str
    problem: str = ""
    """Why it can't be used; empty if nothing is known against it."""


def plugins(group: str = GROUP) -> dict[str, Plugin]:
    """The methods (or evaluations, or artifact kinds) of other packages by slug, looked up without importing them.

    One that has the name of another one, or no `module:name` value, is listed with its problem.
    """
    what, own = _OWN[group]
    found: dict[str, Plugin] = {}
    for point in entry_points(group=group):
        package = _package(point)
        problem = ""
        if point.name in own:
            problem = f"the package {package} adds {what} {point.name!r}, which calotype has itself; it is not used"
        elif point.name in found:
            problem = f"the packages {found[point.name].package} and {package} both add {what} {point.name!r}; uninstall one"
        elif ":" not in point.value:
            problem = f"the package {package} adds {what} {point.name!r} without a name in its module ({point.value!r}); it is not used"
        key = point.name if point.name not in own else f"{point.name} ({package})"
        found[key] = Plugin(point.name, point.value, package, problem)
    return found


def resolve_method(slug: str) -> type[Method]:
    """The class of a method; only its module is imported.

    Raises:
        InputError: no method of that name; the message has the nearest names.
        MissingError: the method is planned, or the package that adds it is broken.

    Example:
        >>> resolve_method("time-reversal-fusoin")
        Traceback (most recent call last):
        calotype.errors.InputError: no method 'time-reversal-fusoin'; did you mean time-reversal-fusion? `calotype list` shows all
    """
    row = METHODS.get(slug)
    if row is not None:
        if row.target is None:
            raise MissingError(f"{slug} is planned but not there yet ({row.paper}); `calotype list` shows the methods that work")
        found: type[Method] = _import(row.target)
        return found
    plugin = plugins().get(slug)
    if plugin is None:
        raise InputError(f"no method {slug!r}; {did_you_mean(slug, known_methods())}`calotype list` shows all")
    added: type[Method] = _of_package(plugin, "the method")
    return added


def resolve_evaluation(slug: str) -> Callable[..., Any]:
    """The class or function with which another package proves a method.

    Raises:
        InputError: no package has one of that name; the message has the nearest names.
        MissingError: the package that adds it is broken.
    """
    plugin = plugins(EVALUATIONS).get(slug)
    if plugin is None:
        method = plugins().get(slug)
        if method is not None:
            raise InputError(f"the package {method.package} adds no evaluation of {slug}; the entry-point group for one is {EVALUATIONS}")
        raise InputError(f"no evaluation of {slug!r}; {did_you_mean(slug, plugins(EVALUATIONS))}`calotype list` shows the methods")
    found: Callable[..., Any] = _of_package(plugin, "the evaluation of")
    return found


def find_evaluation(name: str) -> Callable[..., Any]:
    """What evaluates a method or an embedded model: a class of `calotype.evaluation.Evaluation`, a ready instance of one, or a function.

    Raises:
        InputError: nothing of that name can be evaluated; the message has the nearest names.
        MissingError: the package that adds it is broken.
    """
    row = METHODS.get(name)
    if row is not None and row.evaluation is not None:
        own: Callable[..., Any] = _import(row.evaluation)
        return own
    if name in EMBEDDED:
        gates: Callable[..., Any] = _import(GATES)(_import(EMBEDDED[name])())
        return gates
    if name not in plugins() and name not in plugins(EVALUATIONS):
        known = known_evaluations()
        raise InputError(f"nothing called {name!r} can be evaluated; {did_you_mean(name, known)}there are {', '.join(known)}")
    return resolve_evaluation(name)


def known_evaluations() -> tuple[str, ...]:
    """What can be evaluated: methods, embedded models, and methods of other packages."""
    methods = (slug for slug, row in METHODS.items() if row.evaluation is not None)
    return (*methods, *EMBEDDED, *(slug for slug, plugin in plugins(EVALUATIONS).items() if not plugin.problem))


def has_training(slug: str) -> bool:
    """Whether a method's checkpoints can be trained on a user's data; nothing is imported."""
    return slug in known_trainings()


def known_trainings() -> list[str]:
    """The slugs of the methods that can be trained."""
    own = [slug for slug, row in METHODS.items() if row.training is not None]
    return own + [slug for slug, plugin in plugins(TRAININGS).items() if not plugin.problem]


def resolve_training(slug: str) -> type[Any]:
    """The class that trains a method's checkpoints, a `calotype.train.training.Training`.

    Raises:
        InputError: there is none of that name; the message has the nearest names.
        MissingError: the package that adds it is broken.
    """
    row, plugin = METHODS.get(slug), plugins(TRAININGS).get(slug)
    if row is not None and row.training is not None:
        found: type[Any] = _import(row.training)
        return found
    if plugin is not None:
        added: type[Any] = _of_package(plugin, "the training of")
        return added
    what = f"{slug} has nothing to train" if slug in known_methods() else f"no training of {slug!r}"
    raise InputError(f"{what}; {did_you_mean(slug, known_trainings())}trainings are {', '.join(known_trainings())}")


def known_artifacts() -> list[str]:
    """The names of the artifact kinds that methods and other packages bring."""
    return [*ARTIFACTS, *(name for name, plugin in plugins(ARTIFACT_KINDS).items() if not plugin.problem)]


def resolve_artifact(name: str) -> Any:
    """The artifact kind of that name which a method or another package brings; only its module is imported.

    Raises:
        InputError: there is none; the message has the nearest names.
        MissingError: the package that adds it is broken.
    """
    if name in ARTIFACTS:
        return _import(ARTIFACTS[name])
    plugin = plugins(ARTIFACT_KINDS).get(name)
    if plugin is None:
        known = known_artifacts()
        raise InputError(f"no artifact kind {name!r}; {did_you_mean(name, known)}packages add one by an entry point of {ARTIFACT_KINDS}")
    return _of_package(plugin, "the artifact kind")


def _of_package(plugin: Plugin, what: str) -> Any:
    if plugin.problem:
        raise MissingError(plugin.problem)
    try:
        return _import(plugin.target)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise MissingError(
            f"{what} {plugin.slug} of the package {plugin.package} can't be imported ({reason}); update or uninstall it"
        ) from error


def known_methods() -> list[str]:
    """Every slug: first those that work, then the planned ones."""
    working = [slug for slug, row in METHODS.items() if row.target is not None]
    return [
        *working,
        *(slug for slug, plugin in plugins().items() if not plugin.problem),
        *(slug for slug in METHODS if slug not in working),
    ]


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """The near misses as the middle of a message, "" if there are none.

    Example:
        >>> did_you_mean("evla", ["eval", "list"])
        'did you mean eval? '
    """
    names = list(known)
    given = given[:80]
    near = difflib.get_close_matches(given.lower(), names, n=3, cutoff=0.6) or [
        name for name in names if len(given) > 2 and given.lower() in name
    ]
    return f"did you mean {' or '.join(near[:3])}? " if near else ""


def _import(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "unknown"
