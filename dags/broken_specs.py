"""Shows in Airflow's UI, as an import error of this file, which specs are wrong.

It is a file of its own, because Airflow pauses all DAGs of a file that has an import error: a mistake in one model's spec must
not stop the other models, perhaps during a canary.
"""

from __future__ import annotations

from airflow.sdk import DAG

from operators.core.errors import SpecError
from operators.core.loader import load_specs


class BrokenSpecs(DAG):
    """No real DAG: it fails when Airflow asks it to validate itself."""

    def validate(self) -> None:
        """Report the mistakes.

        :raises SpecError: always
        """
        raise SpecError("\n" + str(self.doc_md))


if problems := load_specs()[1]:
    broken = BrokenSpecs(dag_id="taxiway.broken_specs", doc_md="\n".join(problems), schedule=None)
