"""Says in Airflow's UI, as an import error of this file, which specs are wrong.

A file of its own: Airflow pauses all DAGs of a file that has an import error, and a model must not stop, in the midst of a
canary perhaps, because somebody mistyped another one's spec.
"""

from __future__ import annotations

from airflow.sdk import DAG

from operators.core.errors import SpecError
from operators.core.loader import load_specs


class BrokenSpecs(DAG):
    """Never a DAG: Airflow asks it to validate itself."""

    def validate(self) -> None:
        """Say what is wrong.

        :raises SpecError: always
        """
        raise SpecError("\n" + str(self.doc_md))


if problems := load_specs()[1]:
    broken = BrokenSpecs(dag_id="taxiway.broken_specs", doc_md="\n".join(problems), schedule=None)
