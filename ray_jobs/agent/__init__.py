"""The agent deploys versions and decides what every edge does; one keeper on each Serve node keeps that node's HAProxy.

Callers' traffic never passes here. HAProxy goes on without its keeper, and the keepers go on without the agent.
"""
