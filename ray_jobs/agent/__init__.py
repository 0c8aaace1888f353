"""The agent deploys versions and sets the routes of every edge. A keeper on each node of Serve runs that node's HAProxy.

No request of a caller passes through agent or keeper. HAProxy runs on when its keeper dies, and keepers when the agent dies.
"""
