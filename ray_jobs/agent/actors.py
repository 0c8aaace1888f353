"""The agent and the keepers as Ray actors. Only this file and the deployer use Ray.

The agent is one detached actor. It starts a keeper, another detached actor, on every node that has a proxy of Serve.
Ray restarts both; HAProxy and the applications run on meanwhile.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from operators.core.errors import ConfigurationError, ServiceError
from operators.core.settings import setting
from ray_jobs.edge import Edge, EdgeConfig

NAME, NAMESPACE = "taxiway-agent", "taxiway"
_KEEPER = "taxiway-keeper-"
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_LOOK_S = 2.0
_READY_S = 60.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class Settings:
    """Settings of agent and keepers. There is no repr, because it would show the token.

    :param agent_url: where the agent is reached, by the keepers too
    :param agent_bind: where it listens, ``host:port``
    :param edge_bind: where each edge listens, ``host:port``
    :param edge: further fields of each edge's config
    :param state_dir: folder for their files, on each node
    :param runtime_env: what brings the code to the replicas; empty where they have it
    """

    agent_url: str
    agent_bind: str
    edge_url: str
    edge_bind: str
    serve_url: str
    state_dir: str
    token: str
    runtime_env: dict[str, Any]
    edge: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls) -> Settings:
        """Read the environment. Nothing listens beyond this machine unless a variable says so.

        :raises ConfigurationError: a variable is missing, or contradicts another
        """
        agent_url = setting("TAXIWAY_AGENT_URL", "address of the agent's admin API")
        edge_url = setting("TAXIWAY_EDGE_URL", "address of the edge that callers use")
        settings = cls(
            agent_url=agent_url,
            agent_bind=bind_of("TAXIWAY_AGENT_BIND", agent_url),
            edge_url=edge_url,
            edge_bind=bind_of("TAXIWAY_EDGE_BIND", edge_url),
            serve_url=setting("TAXIWAY_SERVE_URL", "address of Ray Serve's proxy"),
            state_dir=setting("TAXIWAY_EDGE_STATE_DIR", "folder of the edge's state"),
            token=setting("TAXIWAY_AGENT_TOKEN", "token of the agent's API"),
            runtime_env=json.loads(os.environ.get("TAXIWAY_RAY_RUNTIME_ENV", "{}")),
            edge={name: read for name, kind in _EDGE.items() if (read := _read(name, kind)) is not None},
        )
        settings.edge_config()  # a wrong value is reported here, not in a log on some node
        return settings

    def edge_config(self) -> EdgeConfig:
        """Return the config of each edge.

        :raises ConfigurationError: it is not valid
        """
        upstream = urlsplit(self.serve_url).netloc
        return EdgeConfig(bind=self.edge_bind, upstream=upstream, state_dir=Path(self.state_dir), **self.edge)


# Each may be set for all edges, as TAXIWAY_EDGE_<NAME>; `EdgeConfig` explains it.
_EDGE: Mapping[str, Callable[[str], Any]] = {
    "stable_timeout_s": float,
    "fallback_body_bytes": int,
    "max_body_bytes": int,
    "units": int,
    "breaker_failures": int,
    "breaker_s": int,
    "certificate": Path,
    "tokens": Path,
    "requests_per_s": int,
}


def _read(name: str, kind: Callable[[str], Any]) -> Any:
    variable = f"TAXIWAY_EDGE_{name.upper()}"
    text = os.environ.get(variable)
    try:
        return kind(text) if text else None
    except ValueError:
        raise ConfigurationError(f"{variable}={text!r} is not a number") from None


def bind_of(variable: str, url: str) -> str:
    """Return where to listen: the variable's value, else loopback at the address's port."""
    at = urlsplit(url)
    if bind := os.environ.get(variable):
        return bind
    if at.hostname in _LOOPBACK and at.port:
        return at.netloc
    raise ConfigurationError(
        f"{url} is not an address of this machine alone. Set {variable}=host:port to say where to listen; "
        f"0.0.0.0:{at.port or 8200} is every interface"
    )


class AgentActor:
    """The agent. One for a cluster."""

    def __init__(self, settings: Settings) -> None:
        from ray_jobs.agent.agent import Agent
        from ray_jobs.agent.serve_deployer import Deployer
        from ray_jobs.agent.server import Server, listen

        self._settings = settings
        self._nodes: dict[str, str] = {}  # node → edge
        folder = Path(settings.state_dir) / "agent"
        deployer = Deployer(settings.serve_url, folder, settings.runtime_env)
        made: list[Agent] = []

        def make() -> Agent:
            made.append(Agent(folder, deployer, lost=self._lost))
            return made[0]

        host, _, port = settings.agent_bind.rpartition(":")
        Server(make, listen(host.strip("[]"), int(port)), settings.token).start()
        held = made[0].store.state.held
        deployer.restore({(model, version) for model, h in held.items() for version in h.route.versions})
        self._look_for_nodes()
        threading.Thread(target=self._look_on, name="nodes", daemon=True).start()

    def ping(self) -> None:
        """Answer once the constructor has returned."""

    def _look_on(self) -> None:
        while True:
            time.sleep(_LOOK_S)
            try:
                self._look_for_nodes()
            except Exception as error:  # noqa: BLE001 - Ray's control plane may be away; it is tried again
                _log.warning("the nodes could not be looked at: %s", error)

    def _look_for_nodes(self) -> None:
        """Put a keeper on every node that has a proxy of Serve and no keeper."""
        from ray import serve

        addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
        proxies = set(serve.status().proxies) & set(addresses)
        known = {named["name"] for named in ray.util.list_named_actors(all_namespaces=True)}
        port = self._settings.edge_bind.rpartition(":")[2]
        for node in proxies:
            self._nodes[node] = f"{addresses[node]}:{port}"
            if _KEEPER + node not in known:
                _start_keeper(self._settings, node, self._nodes[node])
        self._here = set(addresses)

    def _lost(self) -> set[str]:
        """Return the edges whose nodes Ray no longer has."""
        return {edge for node, edge in self._nodes.items() if node not in self._here}


class KeeperActor:
    """The keeper of one node's edge."""

    def __init__(self, settings: Settings, edge_id: str) -> None:
        from ray_jobs.agent.keeper import Keeper
        from ray_jobs.agent.link import Link

        link = Link(settings.agent_url, settings.token, edge_id)
        Keeper(Edge(settings.edge_config()), link, url=_url_of(settings, edge_id)).start()

    def ping(self) -> None:
        """Answer once the constructor has returned."""


def _url_of(settings: Settings, edge_id: str) -> str:
    """Return where callers reach an edge: on its node's own address, unless it listens on loopback."""
    at = urlsplit(settings.edge_url)
    return settings.edge_url if at.hostname in _LOOPBACK else f"{at.scheme}://{edge_id}"


def _start_keeper(settings: Settings, node: str, edge_id: str) -> None:
    on_node = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    actor = ray.remote(KeeperActor).options(
        name=_KEEPER + node,
        namespace=NAMESPACE,
        lifetime="detached",
        num_cpus=0,
        max_restarts=-1,
        scheduling_strategy=on_node,
    )
    actor.remote(settings, edge_id)


def _kill_old() -> None:
    """End the agent and the keepers of an older start; HAProxy goes on."""
    for named in ray.util.list_named_actors(all_namespaces=True):
        name = named["name"]
        if named["namespace"] == NAMESPACE and (name == NAME or name.startswith(_KEEPER)):
            ray.kill(ray.get_actor(name, namespace=NAMESPACE))


def main() -> int:
    """Start Serve and the agent; return an exit status once the API and an edge answer."""
    from ray import serve

    settings = Settings.load()
    ray.init(
        address=setting("RAY_ADDRESS", "address of the Ray cluster"),
        namespace=NAMESPACE,
        runtime_env=settings.runtime_env,
        log_to_driver=False,
    )
    serve_at = urlsplit(settings.serve_url)
    serve.start(http_options={"host": serve_at.hostname, "port": serve_at.port})
    _kill_old()
    actor = ray.remote(AgentActor).options(
        name=NAME, namespace=NAMESPACE, lifetime="detached", num_cpus=0, max_restarts=-1, max_concurrency=2
    )
    ray.get(actor.remote(settings).ping.remote(), timeout=_READY_S)
    _wait_for_edge(settings)
    return 0


def _wait_for_edge(settings: Settings) -> None:
    from operators.core.http import answer, client

    deadline, problem = time.monotonic() + _READY_S, "no keeper has reported"
    with client(settings.agent_url, token=settings.token) as http:
        while time.monotonic() < deadline:
            health = answer(http.get("/v1/health"), "the agent")
            if health["edge"]:
                return
            reports = [edge["error"] or "it does not reach Serve's proxy" for edge in health["edges"]]
            problem = "; ".join(reports) or problem
            time.sleep(0.1)
    raise ServiceError(f"the edge at {settings.edge_url} did not come up: {problem}")
