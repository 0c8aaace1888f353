"""A real Prometheus that scrapes the agent, where there is one: `TAXIWAY_TEST_PROMETHEUS` names the program."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROMETHEUS = shutil.which(os.environ.get("TAXIWAY_TEST_PROMETHEUS", "prometheus"))


@contextmanager
def scraping(agent_url: str, token: str, *, port: int, folder: Path) -> Iterator[None]:
    """Run it. Each second it reads the agent's ``/metrics``."""
    assert PROMETHEUS, "there is no Prometheus"
    (folder / "token").write_text(token)
    (folder / "token").chmod(0o600)
    (folder / "prometheus.yml").write_text(
        f"""
scrape_configs:
  - job_name: taxiway
    scrape_interval: 1s
    scrape_timeout: 1s
    authorization: {{credentials_file: {folder / "token"}}}
    static_configs: [{{targets: ["{agent_url.removeprefix("http://")}"]}}]
"""
    )
    with (folder / "prometheus.log").open("w") as log:
        server = subprocess.Popen(
            [
                PROMETHEUS,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
        try:
            yield
        finally:
            server.terminate()
            server.wait(timeout=15)
