"""Release a version: plan, judge, agent, operators."""
