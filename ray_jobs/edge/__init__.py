"""The edge: one HAProxy in front of every model version."""

from ray_jobs.edge.config import EdgeConfig
from ray_jobs.edge.counters import LATENCY_BOUNDS_MS
from ray_jobs.edge.edge import Edge
from ray_jobs.edge.map_line import LiveRoute

__all__ = ["LATENCY_BOUNDS_MS", "Edge", "EdgeConfig", "LiveRoute"]
