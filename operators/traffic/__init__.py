"""What is asked of the edge: the agent's client, routes, assignment, emergency rollback."""
