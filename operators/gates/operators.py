"""Measure a candidate beside the champion, and decide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from operators.compute.module_job import RayModuleOperator
from operators.core.settings import setting
from operators.core.spec import PredictionSpec
from operators.gates.policy import decide
from operators.registry.client import CHAMPION, Registry


class EvaluateOperator(RayModuleOperator):
    """Run the evaluation job for the candidate, and for the version that is champion when the task runs.

    :param kwargs: arguments of `RayModuleOperator`; ``payload`` names the candidate as ``challenger``
    :returns: ``rows``, the metrics of ``challenger`` and ``champion``, and ``smoke_key``
    """

    def execute(self, context: Any) -> Any:
        """Look up the champion, then submit."""
        registry = Registry(setting("MLFLOW_TRACKING_URI", "address of the MLflow tracking server"))
        champion = registry.alias(self.spec.name, CHAMPION)
        self.payload = {**self.payload, "champion": champion.uri if champion else None}
        return super().execute(context)


class GateOperator(BaseOperator):
    """Decide whether the candidate may be released, and write the decision to the ledger.

    :param spec: spec of the model
    :param evaluation: what the evaluation job returned (templated)
    :returns: ``passed``, ``reasons``, ``metric``, ``challenger`` and ``champion``
    :raises AirflowFailException: the answer is no; the message lists every reason
    """

    template_fields: Sequence[str] = ("evaluation",)

    def __init__(self, *, spec: PredictionSpec, evaluation: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spec = spec
        self.evaluation = evaluation

    def execute(self, context: Any) -> dict[str, Any]:
        """Apply the rules of the spec, record the decision, and fail the task if the answer is no."""
        from operators.core.ledger import Ledger
        from operators.core.rows import GateRow

        measured = self.evaluation
        decision = decide(
            self.spec.gate, rows=measured["rows"], challenger=measured["challenger"], champion=measured["champion"]
        )
        row = GateRow(**decision.model_dump(mode="json"), measured=measured)
        ledger = Ledger(setting("TAXIWAY_LEDGER_URL", "SQLAlchemy URL of the ledger"))
        ti = context["ti"]
        ledger.append(self.spec.name, row, key=f"{self.spec.name}/{ti.run_id}/gate/{ti.try_number}")
        if not decision.passed:
            raise AirflowFailException("the gate refuses the candidate: " + "; ".join(decision.reasons))
        return decision.model_dump(mode="json")
