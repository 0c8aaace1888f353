"""Kubernetes' API, as far as the KubeRay operators use it."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Kubernetes(ThreadingHTTPServer):
    """The few calls of Kubernetes' API that matter here, as its documentation describes them."""

    daemon_threads = True

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self.status: dict[str, Any] = {}
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def kube_config(self) -> str:
        """What a client needs to reach it."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.server_port}"}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }
        return json.dumps(config)

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Kubernetes

    def do_GET(self) -> None:
        found = self.server.objects.get(self.path)
        self._say(200, {**found, "status": self.server.status}) if found else self._say(404, {"reason": "NotFound"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        path = f"{self.path}/{body['metadata']['name']}"
        if path in self.server.objects:
            return self._say(409, {"reason": "AlreadyExists"})
        self.server.objects[path] = body
        self._say(201, body)

    def do_DELETE(self) -> None:
        found = self.server.objects.pop(self.path, None)
        self._say(200 if found else 404, {"reason": "" if found else "NotFound"})

    def _say(self, status: int, body: Any) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        """Stay silent."""
