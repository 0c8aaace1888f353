"""``python -m ray_jobs.agent`` starts Serve and the agent on the cluster that ``RAY_ADDRESS`` names.

The command ends once the API and an edge answer. Run it again to replace the code of the agent and the keepers; HAProxy
and the applications are not touched.
"""

import os
import sys

from ray_jobs.agent.actors import main

if __name__ == "__main__":
    os.environ.setdefault("RAY_ADDRESS", "auto")
    sys.exit(main())
