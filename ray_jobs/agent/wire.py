"""What the agent's API takes and answers. The OpenAPI document is made from these models."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from operators.core.traffic import Closed, Holder, LeasedRoute, ModelCounters, RouteState


class RouteUpdate(RouteState):
    """A route that was set, and which edges do not have it yet."""

    generation: int
    behind: list[str] = Field(
        description="ids of the edges that have not confirmed it; empty: it is in force everywhere"
    )


class Deploy(Closed):
    """A version to deploy."""

    spec: str = Field(min_length=2, description="the model's spec as JSON")
    model_uri: str = Field(min_length=1, max_length=2000, description="where MLflow has the model")


class Renewal(Closed):
    """Who renews a lease."""

    holder: Holder


class Rollback(Closed):
    """Why a model is rolled back, and by whom."""

    reason: str = Field(min_length=1, max_length=2000)
    actor: str = Field(min_length=1, max_length=200)


class EdgeState(BaseModel):
    """What one edge has reported of itself."""

    id: str
    url: str
    ready: bool = Field(description="it answers callers, and its keeper has been heard of lately")
    generation: int = Field(description="of the routes that it has")
    behind: bool = Field(description="it has other routes than the agent, or has not been heard of lately")
    error: str | None = None


class Health(BaseModel):
    """Whether callers are answered."""

    edge: bool = Field(description="at least one edge is ready")
    edges: list[EdgeState]


class Live(BaseModel):
    """The answer of a process that runs."""

    live: bool = True


class Event(Closed):
    """Something that an edge did by itself."""

    id: str = Field(
        min_length=8, max_length=64, description="unique: an edge repeats an event until the agent confirms it"
    )
    at: float
    kind: str = Field(pattern=r"^[a-z_]{1,40}$")
    model: str | None = None
    detail: dict[str, Any] = Field(default_factory=dict)


class DeletedVersion(Closed):
    """A version that has been deleted: nobody needs its counters any longer."""

    model: str
    version: str


class Report(Closed):
    """What a keeper reports of its edge."""

    url: str = Field(max_length=300)
    ready: bool
    lineage: str = Field(max_length=64, description="of the routes that it has; empty: it has none")
    generation: int = Field(ge=0)
    since: str = Field(max_length=64, description="changes when the edge's counters begin anew")
    answered: int = Field(0, description="the `ask` that `readings` is the answer to")
    readings: dict[str, ModelCounters] = Field(default_factory=dict, description="of the models that were asked for")
    breakers: list[str] = Field(default_factory=list, description="models whose canary is taken out now")
    leased: dict[str, LeasedRoute] | None = Field(None, description="its routes, if the agent wants to know them")
    events: list[Event] = Field(default_factory=list, max_length=1000)
    forgotten: list[DeletedVersion] = Field(default_factory=list, description="whose counters the edge has removed")
    error: str | None = Field(None, max_length=2000)


class Orders(Closed):
    """What an edge should have, and tell."""

    lineage: str
    generation: int
    now: float = Field(description="the agent's clock, unix seconds")
    leased: dict[str, LeasedRoute] | None = Field(None, description="all routes, if the edge has others")
    tell: bool = Field(False, description="the agent has lost its routes and wants to know the edge's")
    ask: int = Field(description="number of the newest wish for counters")
    models: list[str] = Field(default_factory=list, description="whose counters are wanted since `answered`")
    heard: list[str] = Field(default_factory=list, description="ids of the events that are in the journal")
    gone: list[DeletedVersion] = Field(default_factory=list, description="whose counters are to be removed")


class Problem(BaseModel):
    """An error: what, where, and how to mend it."""

    error: str
