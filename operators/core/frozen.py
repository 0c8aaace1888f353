"""Bases of the types that pass between rooms: once made, none is changed."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Cannot be changed; a field that it does not know is dropped, so that an older reader takes what a newer one wrote."""

    model_config = ConfigDict(frozen=True)


class Exact(Frozen):
    """Takes no field that it does not know."""

    model_config = ConfigDict(extra="forbid")


class Written(Exact):
    """What a person wrote: a number in quotes is not a number."""

    model_config = ConfigDict(strict=True)
