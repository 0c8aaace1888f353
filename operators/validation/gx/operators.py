"""Batches and checkpoints of Great Expectations as Airflow tasks, run as Great Expectations runs them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from operators.core.errors import ConfigurationError
from operators.validation.operators import Expecting, Validating

ContextType = Literal["ephemeral", "cloud", "file"]
_RUN_BATCH_PARAMETERS = "gx_batch_parameters"


class ValidateBatchOperator(Expecting):
    """Validate a batch of any data source that Great Expectations knows, in the way it reads it.

    Results are kept as by `ValidateOperator`, but there is no quarantine. Give exactly one of
    ``configure_expectations``, ``expect`` and ``suite``.

    :param configure_batch_definition: function that takes Great Expectations' context and returns a
        ``BatchDefinition``
    :param batch_parameters: values that choose the batch, e.g. ``{"year": "2026"}``. The run's param
        ``gx_batch_parameters`` overrides them (templated)
    :param context_type: ``ephemeral``, or ``cloud`` to keep the results in GX Cloud
    :param conn_id: Airflow connection of GX Cloud: login, password and schema are organization, token and workspace
        (templated)
    :param configure_expectations: function that takes Great Expectations' context, and returns an expectation, a
        list, or a suite
    :param expect: an expectation, a list, or a suite. It imports Great Expectations when the DAG is parsed, which
        takes seconds
    :param suite: YAML file of suites; absolute, or relative to ``include/`` (templated)
    :param suite_name: name of the suite in the file. Default: the only one (templated)
    :param suite_parameters: values for ``{$PARAMETER: …}`` in the expectations (templated)
    :param result_format: Great Expectations' ``result_format``. Default: ``SUMMARY``
    :param fail_on: lowest severity that fails the task: ``critical``, ``warning``, ``info`` or ``never``
    :param storage: where results are kept: ``s3://bucket/prefix`` or ``file:///path``. Default:
        ``$AIRFLOW_HOME/validation`` of the worker (templated)
    :param docs_base_url: http(s) address under which ``storage`` is served, for the link to the Data Docs (templated)
    :param run_key: folder of this run below ``storage`` (templated)
    :returns: as `ValidateOperator`, without ``dataset_uri``
    :raises GXValidationFailed: the data does not meet the expectations; a retry cannot help
    """

    template_fields: Sequence[str] = (*Expecting.template_fields, "batch_parameters", "conn_id")

    def __init__(
        self,
        *,
        configure_batch_definition: Callable[[Any], Any],
        batch_parameters: Mapping[str, Any] | None = None,
        context_type: Literal["ephemeral", "cloud"] = "ephemeral",
        conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.configure_batch_definition = configure_batch_definition
        self.batch_parameters = batch_parameters
        self.context_type = context_type
        self.conn_id = conn_id

    def validate(self, context: Any) -> dict[str, Any]:
        """Validate the batch."""
        from operators.core.storage import Storage
        from operators.validation.gx.client import open_context, validate_batch

        engine = open_context(self.context_type, _cloud(self.conn_id))
        validated = validate_batch(
            engine,
            self.configure_batch_definition(engine.context),
            self.checks(engine.context),
            batch_parameters=_batch_parameters(context, self.batch_parameters),
            storage=Storage(self.storage_root()) if self.context_type == "ephemeral" else None,
            prefix=self.prefix(context),
        )
        return self.finish(context, validated.described, validated.report)


class ValidateCheckpointOperator(Validating):
    """Run a checkpoint of Great Expectations, with its actions.

    Data Docs are those of the checkpoint's own context.

    :param configure_checkpoint: function that takes Great Expectations' context and returns a ``Checkpoint``
    :param batch_parameters: values that choose the batch, e.g. ``{"year": "2026"}``. The run's param
        ``gx_batch_parameters`` overrides them (templated)
    :param context_type: ``ephemeral``, ``cloud``, or ``file``
    :param configure_file_data_context: function that returns a ``FileDataContext``, or yields it once and cleans up
        afterwards; goes with ``context_type="file"``
    :param conn_id: Airflow connection of GX Cloud: login, password and schema are organization, token and workspace
        (templated)
    :param fail_on: lowest severity that fails the task: ``critical``, ``warning``, ``info`` or ``never``
    :param storage: where results are kept: ``s3://bucket/prefix`` or ``file:///path``. Default:
        ``$AIRFLOW_HOME/validation`` of the worker (templated)
    :param docs_base_url: http(s) address under which ``storage`` is served, for the link to the Data Docs (templated)
    :param run_key: folder of this run below ``storage`` (templated)
    :returns: Great Expectations' description of the result
    :raises GXValidationFailed: the data does not meet the expectations; a retry cannot help
    """

    template_fields: Sequence[str] = (*Validating.template_fields, "batch_parameters", "conn_id")

    def __init__(
        self,
        *,
        configure_checkpoint: Callable[[Any], Any],
        batch_parameters: Mapping[str, Any] | None = None,
        context_type: ContextType = "ephemeral",
        configure_file_data_context: Callable[[], Any] | None = None,
        conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if (context_type == "file") != (configure_file_data_context is not None):
            raise ValueError(
                f"{self.task_id}: give configure_file_data_context and context_type='file' together, or neither"
            )
        self.configure_checkpoint = configure_checkpoint
        self.batch_parameters = batch_parameters
        self.context_type = context_type
        self.configure_file_data_context = configure_file_data_context
        self.conn_id = conn_id

    def validate(self, context: Any) -> dict[str, Any]:
        """Run the checkpoint."""
        from operators.validation.gx.client import open_context, run_checkpoint

        parameters = _batch_parameters(context, self.batch_parameters)
        made = self.configure_file_data_context() if self.configure_file_data_context else None
        opened = next(made) if inspect.isgenerator(made) else made
        try:
            gx_context = opened or open_context(self.context_type, _cloud(self.conn_id)).context
            validated = run_checkpoint(
                gx_context, self.configure_checkpoint(gx_context), batch_parameters=parameters, fail_on=self.fail_on
            )
        finally:
            if inspect.isgenerator(made) and next(made, None) is not None:
                raise ConfigurationError("configure_file_data_context must yield one context, exactly once")
        return self.finish(context, validated.described, validated.report)


def _batch_parameters(context: Any, own: Mapping[str, Any] | None) -> dict[str, Any]:
    return dict((context.get("params") or {}).get(_RUN_BATCH_PARAMETERS) or own or {})


def _cloud(conn_id: str | None) -> Mapping[str, str]:
    if not conn_id:
        return {}
    from operators.validation.hook import gx_cloud

    return gx_cloud(conn_id)
