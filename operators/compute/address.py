"""Where a Ray cluster is."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class RayAddress:
    """A cluster's dashboard. ``repr`` hides the token.

    :param url: e.g. ``http://127.0.0.1:8265``
    :param token: Ray's bearer token, or None
    :param verify: whether TLS certificates are checked; a path: against the certificates in this file
    :param dashboard_url: where a person's browser reaches the dashboard
    """

    url: str
    token: str | None = field(default=None, repr=False)
    verify: bool | str = True
    dashboard_url: str = ""

    def job_page(self, submission_id: str) -> str:
        """Return the address of a job's page in the dashboard."""
        return f"{self.dashboard_url or self.url}/#/jobs/{submission_id}"
