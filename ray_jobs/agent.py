"""The agent: a detached Ray actor that owns the edge and deploys versions, behind a token-authenticated HTTP API.

``python -m ray_jobs.agent`` starts Serve and the agent on the cluster that ``RAY_ADDRESS`` names, and ends once both the
API and the edge answer. Running it again replaces the agent's code and leaves HAProxy and the applications alone.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import os
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from operators.core.errors import ConfigurationError, ServiceError, TaxiwayError
from operators.core.settings import setting
from ray_jobs.deployer import Deployer
from ray_jobs.edge import Edge, EdgeConfig, Route

NAME, NAMESPACE = "taxiway-agent", "taxiway"
_LISTEN_TIMEOUT_S = 30.0
_WATCH_EVERY_S = 2.0
_LEASE_S = 180.0
_log = logging.getLogger(__name__)


class Agent:
    """The actor. One for each Serve node; on one machine, one."""

    def __init__(
        self, listen_url: str, edge_url: str, serve_url: str, state_dir: str, token: str, runtime_env: dict[str, Any]
    ) -> None:
        self._listen = urlsplit(listen_url)
        self._token = token
        self._deployer = Deployer(serve_url, Path(state_dir) / "orders.json", runtime_env)
        self._renewed: dict[str, float] = {}  # model → when somebody last looked at its counters
        self._moving = asyncio.Lock()  # between asking whether a version runs or is routed, and acting on it
        self._edge = Edge(
            EdgeConfig(bind=urlsplit(edge_url).netloc, upstream=urlsplit(serve_url).netloc, state_dir=Path(state_dir))
        )
        # In the constructor, so that an actor that Ray restarts comes back whole.
        self._edge.start()
        routes = self._edge.routes().values()
        self._deployer.restore({(r.model, v) for r in routes for v in (r.stable, r.canary) if v is not None})
        listening = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._listen_forever(listening)), daemon=True).start()
        if not listening.wait(_LISTEN_TIMEOUT_S):
            raise ServiceError(f"the agent could not listen on {listen_url} within {_LISTEN_TIMEOUT_S} s")

    def ping(self) -> None:
        """Answer once the constructor is through."""

    async def _listen_forever(self, listening: threading.Event) -> None:
        app = web.Application(middlewares=[self._guard])
        app.add_routes(
            [
                web.get("/v1/health", self._health),
                web.get("/v1/apps", self._apps),
                web.get("/v1/apps/{model}/{version}", self._app),
                web.put("/v1/apps/{model}/{version}", self._deploy),
                web.delete("/v1/apps/{model}/{version}", self._retire),
                web.get("/v1/routes", self._routes),
                web.put("/v1/routes/{model}", self._set_route),
                web.delete("/v1/routes/{model}", self._remove_route),
                web.get("/v1/counters/{model}", self._counters),
            ]
        )
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        while not listening.is_set():
            try:
                await web.TCPSite(runner, self._listen.hostname, self._listen.port).start()
                listening.set()
            except OSError as error:  # the agent before this one may still hold the port
                _log.warning("%s", error)
                await asyncio.sleep(0.2)
        while True:
            await asyncio.sleep(_WATCH_EVERY_S)
            try:
                await asyncio.to_thread(self._edge.start)  # finds the one that runs, or brings it back
                async with self._moving:  # a route that is moved meanwhile must not be set back
                    await self._end_unwatched_canaries()
            except (TaxiwayError, OSError, ValueError) as error:
                _log.error("the edge could not be looked after: %s", error)

    async def _end_unwatched_canaries(self) -> None:
        """The lease: a canary whose counters nobody reads has no judge, and loses its traffic."""
        now = time.monotonic()
        for route in (await asyncio.to_thread(self._edge.routes)).values():
            renewed = self._renewed.setdefault(route.model, now)
            if route.weight_bp and now - renewed > _LEASE_S:
                _log.warning("nobody has judged the canary of %s for %d s: its weight is 0 now", route.model, _LEASE_S)
                await asyncio.to_thread(self._edge.set_route, replace(route, weight_bp=0))

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Let in who has the token, and answer errors as JSON."""
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            return web.json_response({"error": "a valid token is required"}, status=401)
        try:
            return await handler(request)
        except (ConfigurationError, ValueError, KeyError, TypeError) as error:
            return web.json_response({"error": f"{type(error).__name__}: {error}"}, status=400)
        except TaxiwayError as error:
            return web.json_response({"error": str(error)}, status=503)

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"edge": await asyncio.to_thread(self._edge.ready)})

    async def _apps(self, _: web.Request) -> web.Response:
        return web.json_response(await asyncio.to_thread(self._deployer.states))

    async def _app(self, request: web.Request) -> web.Response:
        return web.json_response(await asyncio.to_thread(self._deployer.state, *_which(request)))

    async def _deploy(self, request: web.Request) -> web.Response:
        body = await request.json()
        state = await asyncio.to_thread(self._deployer.deploy, *_which(request), body["spec"], body["model_uri"])
        return web.json_response(state, status=202)

    async def _retire(self, request: web.Request) -> web.Response:
        model, version = _which(request)
        async with self._moving:
            route = (await asyncio.to_thread(self._edge.routes)).get(model)
            if route and version in (route.stable, route.canary):
                return _refuse(f"{model}/{version} has traffic; route it elsewhere first")
            self._deployer.begin_to_retire(model, version)
        await asyncio.to_thread(self._deployer.retire, model, version)  # takes seconds; nobody should wait for it
        return web.json_response({"status": "NOT_STARTED"})

    async def _routes(self, _: web.Request) -> web.Response:
        routes = await asyncio.to_thread(self._edge.routes)
        return web.json_response({model: asdict(route) for model, route in routes.items()})

    async def _set_route(self, request: web.Request) -> web.Response:
        body = await request.json()
        route = Route(
            model=request.match_info["model"],
            stable=body["stable"],
            canary=body["canary"],
            weight_bp=body["weight_bp"],
        )
        async with self._moving:
            known = (await asyncio.to_thread(self._edge.routes)).get(route.model)
            routed = (known.stable, known.canary) if known else ()
            for version in [v for v in (route.stable, route.canary) if v is not None and v not in routed]:
                state = await asyncio.to_thread(self._deployer.state, route.model, version)
                if state["status"] != "RUNNING":
                    return _refuse(f"{route.model}/{version} is {state['status']}; it cannot have traffic")
            self._renewed[route.model] = time.monotonic()
            return web.json_response(asdict(await asyncio.to_thread(self._edge.set_route, route)))

    async def _remove_route(self, request: web.Request) -> web.Response:
        await asyncio.to_thread(self._edge.remove, request.match_info["model"])
        return web.json_response({})

    async def _counters(self, request: web.Request) -> web.Response:
        model = request.match_info["model"]
        self._renewed[model] = time.monotonic()
        counters = await asyncio.to_thread(self._edge.counters, model)
        # JSON has no infinity: the last bucket's bound is null.
        rows = [
            {
                "version": c.version,
                "arm": c.arm,
                "requests": c.requests,
                "failures": c.failures,
                "latency": [[None if bound == float("inf") else bound, n] for bound, n in c.latency_ms_buckets],
            }
            for c in counters
        ]
        return web.json_response(rows)


def _refuse(reason: str) -> web.Response:
    return web.json_response({"error": reason}, status=409)


def _which(request: web.Request) -> tuple[str, str]:
    return request.match_info["model"], request.match_info["version"]


def main() -> int:
    """Start Serve and the agent; return an exit status."""
    import ray
    from ray import serve

    runtime_env = json.loads(os.environ.get("TAXIWAY_RAY_RUNTIME_ENV", "{}"))
    ray.init(
        address=setting("RAY_ADDRESS", "address of the Ray cluster"),
        namespace=NAMESPACE,
        runtime_env=runtime_env,
        log_to_driver=False,
    )
    serve_at = urlsplit(setting("TAXIWAY_SERVE_URL", "address of Ray Serve's proxy"))
    serve.start(http_options={"host": serve_at.hostname, "port": serve_at.port})
    if NAME in ray.util.list_named_actors():
        ray.kill(ray.get_actor(NAME))
    actor = ray.remote(Agent).options(name=NAME, lifetime="detached", num_cpus=0, max_restarts=-1)
    agent = actor.remote(
        setting("TAXIWAY_AGENT_URL", "where the agent listens"),
        setting("TAXIWAY_EDGE_URL", "where the edge listens"),
        setting("TAXIWAY_SERVE_URL", "address of Ray Serve's proxy"),
        setting("TAXIWAY_EDGE_STATE_DIR", "folder of the edge's state"),
        setting("TAXIWAY_AGENT_TOKEN", "token of the agent's API"),
        runtime_env,
    )
    ray.get(agent.ping.remote(), timeout=60)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("RAY_ADDRESS", "auto")
    sys.exit(main())
