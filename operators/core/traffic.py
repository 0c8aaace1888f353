"""What the client, the agent and the edges say to each other, declared once: routes, counters, states. Pure.

A new field of a route is added to :class:`RouteBody` here, and to the table in ``ray_jobs/edge/map_line.py`` if HAProxy
must have it. A new counter is added to :class:`Row` here and to ``ray_jobs/edge/haproxy.cfg``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, ModelWrapValidatorHandler, model_serializer, model_validator

from operators.core.frozen import Exact, Frozen

ALL_BP = 10_000
MODEL_PATTERN = r"^[a-z][a-z0-9_]{0,62}$"
VERSION_PATTERN = r"^[0-9]{1,9}$"

Version = Annotated[str, Field(pattern=VERSION_PATTERN)]
Holder = Annotated[str, Field(min_length=1, max_length=250)]
BasisPoints = Annotated[int, Field(ge=0, le=ALL_BP)]
Status = Literal["NOT_STARTED", "DEPLOYING", "DEPLOY_FAILED", "RUNNING", "UNHEALTHY", "DELETING"]


class Answer(Frozen):
    """Base of what is answered: keys of a newer agent are ignored."""


class Closed(Exact):
    """Base of what is asked: an unknown key is an error, so that a misspelt one is not ignored."""


# ---------------------------------------------------------------------- routes


class Unit(Closed):
    """What a caller is assigned by: a header or a field of the body. Give one of the two."""

    header: str | None = Field(
        None,
        pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$",
        description="Name of the request header with the caller's id, e.g. `X-Customer-Id`.",
    )
    field: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z_][A-Za-z0-9_-]*){0,5}$",
        max_length=250,
        description="Path of the field with the caller's id in the JSON body, e.g. `parameters.customer`.",
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.header is None) == (self.field is None):
            raise ValueError("give either `header` or `field`")
        return self

    @model_serializer
    def _given(self) -> dict[str, str]:
        return {"field": self.field} if self.field is not None else {"header": str(self.header)}


class RouteBody(Closed):
    """Who answers for one model. Only `stable` is required; a model whose `stable` is null answers 503.

    The unit of a request decides its bucket, 0 to 9999. The canary has the buckets below `weight_bp`.
    """

    model_config = ConfigDict(strict=True)

    stable: Version | None = Field(description="the version that answers, and that a failed canary falls back on")
    canary: Version | None = Field(None, description="the version that is tried; weight 0: deployed, waiting")
    weight_bp: BasisPoints = Field(0, description="share of the units that the canary answers, in 0.01 %")
    from_top: bool = Field(False, description="the canary gets the highest buckets that are not held out")
    holdout_bp: BasisPoints = Field(0, description="share of the units, those on top, that never see a canary")
    shadow: Version | None = Field(None, description="a version that gets copies; its answers are dropped")
    shadow_bp: BasisPoints = Field(0, description="share of the units whose requests are copied to the shadow")
    shadow_max_in_flight: int = Field(16, ge=1, le=1024, description="copies beyond this are not made")
    unit: Unit | None = Field(None, description="null: X-Taxiway-Unit, else $.parameters.unit, else the request id")
    testers: bool = Field(False, description="whether the header X-Taxiway-Version may choose a version of the route")
    slow_us: int | None = Field(None, ge=1, le=600_000_000, description="an answer that took longer counts as slow")
    canary_timeout_ms: int = Field(2000, ge=10, le=600_000, description="a canary that is slower has failed")
    max_in_flight: int = Field(64, ge=1, le=2000, description="the canary's requests beyond this go to stable")
    lease_s: float | None = Field(
        None, ge=0.1, le=86_400, description="canary and shadow end if nobody renews it; a weight above 0 needs one"
    )
    holder: Holder | None = Field(None, description="id of the release that moves the route")

    @model_validator(mode="wrap")
    @classmethod
    def _checked(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        # One that exists was checked when it was made, or is a recorded one.
        return value if isinstance(value, cls) else handler(value)._consistent()

    def _consistent(self) -> Self:
        for role, version, share, given_bp in (
            ("canary", self.canary, "weight_bp", self.weight_bp),
            ("shadow", self.shadow, "shadow_bp", self.shadow_bp),
        ):
            if given_bp and version is None:
                raise ValueError(f"{share} {given_bp} without a {role}")
            if version is not None and self.stable is None:
                raise ValueError(f"a {role} needs a stable version beside it")
        if self.canary is not None and self.canary == self.stable:
            raise ValueError(f"version {self.canary} cannot be both stable and the canary")
        if self.weight_bp and self.lease_s is None:
            raise ValueError("a weight above 0 needs lease_s: it must end by itself when nobody watches the canary")
        if self.weight_bp and self.weight_bp + self.holdout_bp > ALL_BP:
            raise ValueError(f"weight_bp {self.weight_bp} and holdout_bp {self.holdout_bp} are more than {ALL_BP}")
        return self

    @property
    def versions(self) -> list[str]:
        """Every version that the route names."""
        return [version for version in (self.stable, self.canary, self.shadow) if version is not None]

    @property
    def needs_lease(self) -> bool:
        """Whether something ends when nobody renews the lease."""
        return self.lease_s is not None and (self.weight_bp > 0 or self.shadow_bp > 0)


class Route(RouteBody):
    """A model, and who answers for it. The edge takes all of it in one step."""

    model: str = Field(pattern=MODEL_PATTERN)

    @classmethod
    def of(cls, model: str, body: RouteBody) -> Route:
        """Return a model's route."""
        return cls(model=model, **{name: getattr(body, name) for name in RouteBody.model_fields})

    @classmethod
    def recorded(cls, model: str, row: Mapping[str, Any]) -> Route:
        """Read a route that was written down; other keys of the row are ignored.

        Its values are not checked: an older version, or a release that the agent refused, may have written it.
        """
        values = {name: row[name] for name in RouteBody.model_fields if name in row}
        if values.get("unit"):
            values["unit"] = Unit.model_construct(**values["unit"])
        return cls.model_construct(**{**values, "model": model})


class RouteState(RouteBody):
    """A route as it stands at the edges."""

    model_config = ConfigDict(extra="ignore")

    lease_expires_at: float | None = Field(None, description="unix seconds; null where nothing ends by itself")
    weight_now_bp: int = Field(0, description="the weight in force: 0 after the lease has ended")
    breaker: Literal["closed", "open"] = Field("closed", description="open: an edge sends the failing canary nothing")


class LeasedRoute(Closed):
    """A route, and the moment at which its lease ends."""

    route: RouteBody
    expires_at: float | None = Field(None, description="unix seconds; null where nothing ends by itself")

    def weight_now_bp(self, now: float) -> int:
        """Return the weight in force: 0 after the lease has ended.

        :param now: unix seconds
        """
        return 0 if self.expires_at is not None and self.expires_at <= now else self.route.weight_bp


class RolledBack(Answer):
    """What a rollback at the agent did."""

    stable: str = Field(description="the version that has the traffic now")
    left: str | None = Field(description="the version that lost its traffic; null: none had any")
    behind: tuple[str, ...] = Field((), description="ids of the edges that have not confirmed it")


# ---------------------------------------------------------------------- versions, journal


class AppState(Answer):
    """Where the deployment of a version stands."""

    status: Status
    message: str = ""


class JournalEntry(Answer):
    """Something that the agent or an edge did by itself."""

    model_config = ConfigDict(extra="allow")

    seq: int
    at: float = Field(description="unix seconds")
    kind: str
    model: str | None = None


# ---------------------------------------------------------------------- counters

Key = tuple[str, str, int]
"""(version, arm, weight in basis points)"""
Latency = tuple[tuple[float | None, int], ...]
"""(upper bound in ms, answers in that bucket), bounds rising; the last bound is None: infinite."""

_EVIDENCE = ("stable", "canary", "shadow")


class Row(Answer):
    """What one version did on one arm, while the canary's weight was this, since its HAProxy started.

    The arms ``stable`` and ``canary`` are compared; the evidence of a shadow is on the arm ``shadow``. The others are no
    evidence: ``fallback`` (stable in place of a canary that failed, was full or whose breaker was open), ``bypass`` (the
    body is too large to be sent twice, so no canary may have it), ``holdout``, ``tester``, and ``edge`` (version ``""``):
    what callers saw.

    The counters are declared in the order of their numbers in haproxy.cfg.
    """

    version: str
    arm: str
    weight_bp: int = Field(0, description="the weight in force when the request was assigned")

    requests: int = Field(0, description="requests that a version answered, or failed to")
    failures: int = Field(0, description="of which failed, also where the fallback mended it")
    fallbacks: int = Field(0, description="of which stable answered in the canary's place")
    slow: int = Field(0, description="of which took longer than the route's slow_us")
    units: int = Field(0, description="distinct units")
    failed_units: int = Field(0, description="units with a failure at this weight")
    slow_units: int = Field(0, description="units with a slow answer at this weight")
    failed_first: int = Field(0, description="units whose first failure in the release was here")
    slow_first: int = Field(0, description="units whose first slow answer in the release was here")
    dropped: int = Field(0, description="copies for the shadow that were not made, as too many were under way")

    latency: Latency = Field((), description="upper bound in ms (null: none), requests between it and the one before")

    @property
    def key(self) -> Key:
        """What names the row."""
        return self.version, self.arm, self.weight_bp

    def plus(self, other: Row) -> Row:
        """Add another row's counts. The bounds of the latency may differ while edges are being replaced."""
        latency = dict(self.latency)
        for bound, count in other.latency:
            latency[bound] = latency.get(bound, 0) + count
        rising = sorted(latency.items(), key=lambda item: float("inf") if item[0] is None else item[0])
        return self._with(other, 1, tuple(rising))

    def gain(self, before: Row | None) -> Row:
        """Return what was counted since the same count stood at ``before``. One that has gone back has begun anew."""
        if before is None or any(getattr(self, name) < getattr(before, name) for name in COUNTS):
            return self
        return self._with(before, -1, ())

    def _with(self, other: Row, sign: int, latency: Latency) -> Row:
        sums = {name: getattr(self, name) + sign * getattr(other, name) for name in COUNTS}
        return self.model_copy(update={**sums, "latency": latency})


COUNTS = tuple(name for name in Row.model_fields if name not in ("version", "arm", "weight_bp", "latency"))
"""Names of the counters, in the order of their numbers in haproxy.cfg."""


class ModelCounters(Answer):
    """The counters of one model."""

    rows: tuple[Row, ...] = ()
    in_flight: dict[str, int] = Field(default_factory=dict, description="requests that are under way now, by version")


class EdgeReading(ModelCounters):
    """What one edge counted, without latency."""

    edge: str = Field(description="its id")
    since: str | None = Field(
        None, description="changes when its counters begin anew, with its HAProxy; null: it could not be asked"
    )
    new: bool = Field(False, description="it had counted nothing when it joined")

    def of(self, versions: Collection[str]) -> EdgeReading:
        """Return what is evidence for these versions."""
        rows = tuple(row for row in self.rows if row.version in versions and row.arm in _EVIDENCE)
        return self.model_copy(update={"rows": rows, "in_flight": {}})


class Counters(ModelCounters):
    """The counters of one model on all edges, at one moment.

    The rows are sums over the edges, to look at. They fall when an edge begins anew or leaves, and of an edge that is away
    they have the last known counts. For differences, compare rows of `edges` with the same `edge` and `since`.
    """

    edges: tuple[EdgeReading, ...] = Field((), description="every edge that is known")

    def of(self, *versions: str) -> Counters:
        """Return what is needed to take differences for these versions; it travels in a trigger's arguments."""
        return Counters(edges=tuple(edge.of(versions) for edge in self.edges))
