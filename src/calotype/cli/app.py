"""From arguments to a verb to an exit status: 0 ok, 1 a claim failed, 2 usage or bad input, 3 something missing, 4 failed, 130 stopped."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from calotype import __version__
from calotype.cli.verbs import Verb
from calotype.errors import CalotypeError, Cancelled, DataError, InputError, printable
from calotype.imaging.files import disk_trouble
from calotype.registry import did_you_mean

OK, CLAIM_FAILED, USAGE, MISSING, FAILED, STOPPED = 0, 1, 2, 3, 4, 130


VERBS: dict[str, Verb] = {
    "list": Verb("listing:list_methods", "", "the methods, and which of them work today", "Look around"),
    "info": Verb("listing:info", "METHOD", "what a method does, what it needs, its parameters and presets", "Look around"),
    "models": Verb("models:models", "[get NAME]", "the checkpoints, and which are on this machine; `get` downloads one", "Look around"),
    "doctor": Verb("doctor:doctor", "[METHOD]", "whether this machine can run it: memory, time, disk, what is missing", "Look around"),
    "demo": Verb("demo:demo", "", "the first method on two example pictures, with its table against the baselines", "Make something"),
    "run": Verb("running:run", "METHOD", "run a method on your own pictures, clips or volumes", "Make something"),
    "resume": Verb("running:resume", "RUN", "continue an interrupted run; the result is bit for bit the same", "Make something"),
    "rerun": Verb("running:rerun", "FILE", "do a run again, from its folder or from a file that it made", "Make something"),
    "compare": Verb("comparing:compare", "RUN RUN", "two runs side by side, or two folders of clips as samples", "Make something"),
    "eval": Verb("evaluate:evaluate", "NAME", "the proof on ground truth: a method or model against its claims", "Prove and train"),
    "train": Verb("training:train", "NAME", "train a method's model on your own data, or an embedded one", "Prove and train"),
    "world": Verb("world:world", "DIR", "write a data set of toy scenes with every ground truth", "Prove and train"),
}


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit status; messages go to stderr, results to stdout."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    try:
        return _dispatch(given)
    except Cancelled as error:
        return _say(str(error), STOPPED, as_json)
    except KeyboardInterrupt:
        return _say("stopped; at once", STOPPED, as_json)
    except CalotypeError as error:
        problems = error.problems if isinstance(error, DataError) else ()
        return _say(" ".join(str(error).split()), error.exit_status, as_json, problems)
    except BrokenPipeError:
        # The reader (`head`, a pager) has gone; that is its right.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else USAGE
    except Exception as error:
        trouble = disk_trouble(error)
        if trouble:
            return _say(f"{trouble}; mend that, then the same command, or `calotype resume RUN` for a begun run, goes on", FAILED, as_json)
        place = _write_traceback()
        text = " ".join(str(error).split())[:300]
        return _say(f"unexpected {type(error).__name__}{f': {text}' if text else ''} (traceback: {place})", FAILED, as_json)


def _dispatch(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help", "help"):
        if len(given) > 1 and given[0] == "help":
            return _dispatch([*given[1:], "--help"])
        from calotype.cli.overview import overview

        overview(VERBS)
        return OK
    if given[0] in ("-V", "--version", "version"):
        sys.stdout.write(f"calotype {__version__}\n")
        return OK
    name, rest = given[0], given[1:]
    verb = VERBS.get(name)
    if verb is None:
        kind = "option" if name.startswith("-") else "verb"
        raise InputError(f"no {kind} {name!r}; {did_you_mean(name, VERBS)}`calotype --help` shows all verbs")
    module, _, function = verb.module.partition(":")
    action: Any = getattr(import_module(f"calotype.cli.{module}"), function)
    return int(action(rest))


def _say(message: str, status: int, as_json: bool, problems: Sequence[str] = ()) -> int:
    """One line on stderr, after one for each of the problems that it sums up; with --json also the one object on stdout."""
    from calotype.cli.console import errors

    for problem in problems:
        errors().print(f"  {problem}", markup=False, highlight=False, soft_wrap=True)
    label = "stopped" if status == STOPPED else "calotype"
    text = printable(message.removeprefix("stopped; ") if status == STOPPED else message)
    errors().print(f"[bold {'yellow' if status == STOPPED else 'red'}]{label}:[/] ", end="", highlight=False)
    errors().print(text, markup=False, highlight=False, soft_wrap=True)
    if as_json:
        told: dict[str, Any] = {"error": message, "status": status, **({"problems": list(problems)} if problems else {})}
        sys.stdout.write(json.dumps(told) + "\n")
    return status


def _write_traceback() -> Path:
    with tempfile.NamedTemporaryFile("w", prefix="calotype-", suffix="-traceback.log", delete=False, encoding="utf-8") as file:
        file.write(traceback.format_exc())
    return Path(file.name)
