"""What the agent's API takes and answers. The OpenAPI document is made from these models."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator

from ray_jobs.edge import Route

MODEL_PATTERN = r"^[a-z][a-z0-9_]{0,62}$"
VERSION_PATTERN = r"^[0-9]{1,9}$"

Version = Annotated[str, Field(pattern=VERSION_PATTERN)]
Holder = Annotated[str, Field(min_length=1, max_length=250)]
BasisPoints = Annotated[int, Field(ge=0, le=10_000, strict=True)]
Status = Literal["NOT_STARTED", "DEPLOYING", "DEPLOY_FAILED", "RUNNING", "UNHEALTHY", "DELETING"]


class Closed(BaseModel):
    """Base: unknown keys are errors, so that a slip of the pen is not silently ignored."""

    model_config = ConfigDict(extra="forbid")


class Unit(Closed):
    """Where a request names the unit that it is assigned by: a header, or a field of its JSON. Exactly one."""

    header: str | None = Field(None, min_length=1, max_length=64, description="name of a request header")
    field: str | None = Field(None, min_length=1, max_length=250, description="names in the JSON body, joined by dots")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.header is None) == (self.field is None):
            raise ValueError("give either `header` or `field`")
        return self

    @model_serializer
    def _only_what_is_set(self) -> dict[str, str]:
        return {"field": self.field} if self.field is not None else {"header": str(self.header)}


class RouteBody(Closed):
    """Who answers for one model. Only `stable` is required. The edge checks the values once more."""

    stable: Version | None = Field(description="the version that answers, and that a failed canary falls back on")
    canary: Version | None = Field(None, description="the version that is tried; weight 0: deployed, waiting")
    weight_bp: BasisPoints = Field(0, description="share of the units that the canary answers, in 0.01 %")
    from_top: bool = Field(False, description="the canary gets the units with the highest buckets")
    holdout_bp: BasisPoints = Field(
        0, description="share of the units, with the highest buckets, that never see a canary"
    )
    shadow: Version | None = Field(None, description="a version that gets copies; its answers are dropped")
    shadow_bp: BasisPoints = Field(0, description="share that is copied to the shadow, in 0.01 %")
    shadow_max_in_flight: int = Field(16, description="copies beyond this are not made")
    unit: Unit | None = Field(None, description="null: X-Taxiway-Unit, else $.parameters.unit, else the request id")
    testers: bool = Field(False, description="whether the header X-Taxiway-Version may choose a version of the route")
    slow_us: int | None = Field(None, description="an answer that took longer is slow, on both arms")
    canary_timeout_ms: int = Field(2000, description="a canary that is slower has failed")
    max_in_flight: int = Field(64, description="the canary's requests beyond this go to stable")
    lease_s: float | None = Field(
        None, description="the weight ends if nobody renews it for so long; one above 0 needs it"
    )
    holder: Holder | None = Field(None, description="id of the release that moves the route")

    def versions(self) -> list[str]:
        """Return every version that the route names."""
        return [version for version in (self.stable, self.canary, self.shadow) if version is not None]

    def for_edge(self, model: str) -> Route:
        """Return the route as the edge takes it.

        :raises ConfigurationError: a value is not valid, or does not fit the others
        """
        return Route.from_json(model, self.model_dump())


class Leased(Closed):
    """A route as an edge needs it: with the moment at which its lease ends."""

    route: RouteBody
    expires_at: float | None = Field(None, description="unix seconds; null where nothing ends by itself")


class RouteNow(RouteBody):
    """A route as it stands."""

    lease_expires_at: float | None = Field(description="unix seconds; null where nothing ends by itself")
    weight_now_bp: int = Field(description="the weight in force: 0 after the lease has ended")
    breaker: Literal["closed", "open"] = Field(description="open: an edge has taken the canary out, as it kept failing")


class RouteSet(RouteNow):
    """A route that was set, and which edges do not have it yet."""

    generation: int
    behind: list[str] = Field(
        description="ids of the edges that have not confirmed it; empty: it is in force everywhere"
    )


class Deploy(Closed):
    """A version to deploy."""

    spec: str = Field(min_length=2, description="the model's spec as JSON")
    model_uri: str = Field(min_length=1, max_length=2000, description="where MLflow has the model")


class AppState(BaseModel):
    """Where a version stands."""

    status: Status
    message: str = ""


class Renewal(Closed):
    """Who renews a lease."""

    holder: Holder


class Rollback(Closed):
    """Why a model is rolled back, and by whom."""

    reason: str = Field(min_length=1, max_length=2000)
    actor: str = Field(min_length=1, max_length=200)


class RolledBack(BaseModel):
    """What a rollback did."""

    stable: str | None = Field(description="the version that has the traffic now")
    left: str = Field(description="the version that lost its traffic")
    behind: list[str] = Field(description="ids of the edges that have not confirmed it")


class Row(BaseModel):
    """What one version answered on one arm, at one weight."""

    version: str
    arm: str
    weight_bp: int = 0
    requests: int = 0
    failures: int = 0
    fallbacks: int = 0
    slow: int = 0
    units: int = 0
    failed_units: int = 0
    slow_units: int = 0
    failed_first: int = 0
    slow_first: int = 0
    dropped: int = 0
    latency: list[tuple[float | None, int]] = Field(
        default_factory=list,
        description="upper bound in ms (null: none) and requests below it and above the one before",
    )


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


class Event(BaseModel):
    """Something that an edge did by itself.

    :param id: unique, as an edge tells until the agent has confirmed
    """

    model_config = ConfigDict(extra="forbid")

    id: str = Field(min_length=8, max_length=64)
    at: float
    kind: str = Field(pattern=r"^[a-z_]{1,40}$")
    model: str | None = None
    detail: dict[str, Any] = Field(default_factory=dict)


class Entry(BaseModel):
    """One line of the journal: what the agent or an edge did by itself."""

    model_config = ConfigDict(extra="allow")

    seq: int
    at: float = Field(description="unix seconds")
    kind: str
    model: str | None = None


class Reading(Closed):
    """The counters of one model on one edge."""

    rows: list[Row] = Field(default_factory=list)
    in_flight: dict[str, int] = Field(default_factory=dict)


class EdgeReading(Reading):
    """What one edge counted, without latency."""

    edge: str = Field(description="its id")
    since: str | None = Field(
        description="changes when its counters begin anew; null: it could not be asked, rows follow later"
    )
    new: bool = Field(description="it had counted nothing when it joined")


class Counters(BaseModel):
    """The counters of one model."""

    rows: list[Row] = Field(
        description="sums over the edges, for a look; they fall when an edge begins anew or leaves: take differences of `edges`"
    )
    in_flight: dict[str, int] = Field(description="requests that are under way now, by version")
    edges: list[EdgeReading] = Field(
        description="every edge that is known: compare only rows with the same `edge` and `since`"
    )


class Gone(Closed):
    """A version that has been deleted: nobody needs its counters any longer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    version: str


class Report(Closed):
    """What a keeper says of its edge."""

    url: str = Field(max_length=300)
    ready: bool
    lineage: str = Field(max_length=64, description="of the routes that it has; empty: it has none")
    generation: int = Field(ge=0)
    since: str = Field(max_length=64, description="changes when the edge's counters begin anew")
    answered: int = Field(0, description="the `ask` that `readings` is the answer to")
    readings: dict[str, Reading] = Field(default_factory=dict, description="of the models that were asked for")
    breakers: list[str] = Field(default_factory=list, description="models whose canary is taken out now")
    leased: dict[str, Leased] | None = Field(None, description="its routes, if the agent wants to know them")
    events: list[Event] = Field(default_factory=list, max_length=1000)
    forgotten: list[Gone] = Field(default_factory=list, description="whose counters the edge has removed")
    error: str | None = Field(None, max_length=2000)


class Orders(Closed):
    """What an edge should have, and tell."""

    lineage: str
    generation: int
    now: float = Field(description="the agent's clock, unix seconds")
    leased: dict[str, Leased] | None = Field(None, description="all routes, if the edge has others")
    tell: bool = Field(False, description="the agent has lost its routes and wants to know the edge's")
    ask: int = Field(description="number of the newest wish for counters")
    models: list[str] = Field(default_factory=list, description="whose counters are wanted since `answered`")
    heard: list[str] = Field(default_factory=list, description="ids of the events that are in the journal")
    gone: list[Gone] = Field(default_factory=list, description="whose counters are to be removed")


class Problem(BaseModel):
    """An error: what, where, and how to mend it."""

    error: str
