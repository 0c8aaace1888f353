"""Where callers go: the agent's client, routes, limits, assignment, emergency rollback."""
