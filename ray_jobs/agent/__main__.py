"""``python -m ray_jobs.agent`` starts Serve and the agent on the cluster that ``RAY_ADDRESS`` names.

It ends once both the API and an edge answer. Running it again replaces the code of the agent and the keepers, and leaves
HAProxy and the applications alone.
"""

import os
import sys

from ray_jobs.agent.actors import main

if __name__ == "__main__":
    os.environ.setdefault("RAY_ADDRESS", "auto")
    sys.exit(main())
