"""The button that leads from a task to its job in the Ray dashboard."""

from __future__ import annotations

from operators.links import XComLink


class RayJobLink(XComLink):
    """A job's page in the Ray dashboard."""

    name = "Ray job"
    key = "_link_RayJobLink"
