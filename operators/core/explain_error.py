"""What is wrong with something that a person wrote, and what was probably meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

Location = tuple[str | int, ...]
_MOST_NAMED = 20


def suggestion(word: str, known: Iterable[str], *, otherwise: str | None = None, cutoff: float = 0.6) -> str:
    """Return what a mistyped word was meant to be, or else what there is.

    :param otherwise: in place of the list of what there is
    :param cutoff: how alike two words must be, from 0 to 1
    """
    names = list(known)
    if close := get_close_matches(word, names, n=1, cutoff=cutoff):
        return f"did you mean {close[0]!r}?"
    return f"known here: {', '.join(names[:_MOST_NAMED])}" if otherwise is None else otherwise


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Return all problems in one line."""
    return "; ".join(f"{dotted(loc)}: {text}" for loc, text in problems(error, model))


def problems(error: ValidationError, model: type[BaseModel]) -> Iterator[tuple[Location, str]]:
    """Return where each problem is, and what it is."""
    every = error.errors(include_url=False)
    for problem in every:
        within = len(problem["loc"])
        if problem["type"] == "too_short" and any(p["loc"][:-1][:within] == problem["loc"] for p in every):
            continue  # pydantic counts only the items that passed
        loc = tuple(part for part in problem["loc"] if part != "[key]")
        yield loc, sentence(problem, keys_at(model, loc[:-1]))


def sentence(problem: Mapping[str, Any], known: Iterable[str] = ()) -> str:
    """Return what one of pydantic's errors says, and the value that it is about.

    :param known: the keys that may stand there
    """
    if problem["type"] == "extra_forbidden":
        known = list(known)
        return f"unknown key; {suggestion(str(problem['loc'][-1]), known)}" if known else "unknown key"
    if problem["type"] == "missing":
        return "is missing"
    text = problem["msg"].removeprefix("Value error, ").removeprefix("Input ").strip()
    value = problem.get("input")
    shown = repr(value) if not isinstance(value, dict | list) else type(value).__name__
    return text if shown in text or problem["type"] == "value_error" else f"{text}; got {shown[:60]}"


def keys_at(model: Any, loc: Location) -> list[str]:
    """Return the keys that a model knows at a place, by walking the models below it."""
    for part in loc:
        if isinstance(model, type) and issubclass(model, BaseModel):
            by_key = {field.alias or name: field for name, field in model.model_fields.items()}
            field = by_key.get(str(part))
            model = field.annotation if field else None
            if type(None) in get_args(model):  # optional
                model = next((part for part in get_args(model) if part is not type(None)), None)
        else:  # a step into dict[…] or tuple[…, ...]
            arguments = [a for a in get_args(model) if isinstance(a, type) and issubclass(a, BaseModel)]
            model = arguments[0] if arguments else None
    if isinstance(model, type) and issubclass(model, BaseModel):
        return [field.alias or name for name, field in model.model_fields.items()]
    return []


def dotted(loc: Iterable[str | int]) -> str:
    """Return a place as a person writes it."""
    return ".".join(map(str, loc)) or "(document)"
