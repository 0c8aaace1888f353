"""Great Expectations as Airflow tasks: bad data fails the task with a table of reasons, or bad rows are set aside."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk import Asset, BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from operators.core.errors import ConfigurationError, RejectedError
from operators.core.loader import INCLUDE
from operators.validation.links import DataDocsLink, docs_link
from operators.validation.policy import FailOn

if TYPE_CHECKING:
    from operators.validation.report import TableReport
    from operators.validation.validation import Checks, Validated, Validation

ResultFormat = Literal["BOOLEAN_ONLY", "BASIC", "SUMMARY", "COMPLETE"]
REPORT_KEY = "report"


class GXValidationFailed(AirflowFailException):
    """The data does not meet its expectations. A retry would give the same result.

    The whole result is in the task's XComs: ``return_value`` (Great Expectations' own) and ``report``.
    """


class Validating(BaseOperator):
    """Base of the operators that validate: where the result is kept, and when it fails the task."""

    operator_extra_links = (DataDocsLink(),)
    ui_color = "#fdf1e3"
    template_fields: Sequence[str] = ("storage", "docs_base_url", "run_key")

    def __init__(
        self,
        *,
        fail_on: FailOn = "critical",
        storage: str | None = None,
        docs_base_url: str | None = None,
        run_key: str = "{{ dag.dag_id }}/{{ task.task_id }}/{{ run_id }}",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.fail_on = fail_on
        self.storage = storage
        self.docs_base_url = docs_base_url
        self.run_key = run_key
        self._stop: Callable[[], None] | None = None

    def execute(self, context: Any) -> dict[str, Any]:
        """Validate, push the result, and fail the task if the data is bad."""
        from operators.validation.interruptible import QueryInterrupted

        try:
            return self.validate(context)
        except (ConfigurationError, RejectedError) as error:
            raise AirflowFailException(str(error)) from error
        except QueryInterrupted as error:
            raise AirflowException("the validation was interrupted, because the task was stopped") from error
        finally:
            self.on_kill()

    @abstractmethod
    def validate(self, context: Any) -> dict[str, Any]:
        """Validate, and return the task's XCom."""

    def on_kill(self) -> None:
        """End the queries that run, and remove temporary files."""
        stop, self._stop = self._stop, None
        if stop is not None:
            stop()

    def finish(self, context: Any, described: dict[str, Any], report: TableReport) -> dict[str, Any]:
        """Push and link the result, add it to the assets' events, and fail the task if the data is bad.

        :param described: Great Expectations' own description of the result
        """
        ti, text = context["ti"], report.text()
        for line in text.splitlines():
            self.log.info("%s", line)
        ti.xcom_push(key=REPORT_KEY, value=report.to_xcom())
        if link := docs_link(report.docs_url, self.storage_root(), self.docs_base_url):
            ti.xcom_push(key=DataDocsLink.key, value=link)
        for asset in (outlet for outlet in self.outlets if isinstance(outlet, Asset)):
            context["outlet_events"][asset].extra = report.summary()
        if not report.passed:
            ti.xcom_push(key="return_value", value=described)
            raise GXValidationFailed(f"{text}\nData Docs: {report.docs_url}")
        return described

    def storage_root(self) -> str:
        """Return the address of the storage."""
        if self.storage:
            return self.storage.rstrip("/")
        home = Path(os.environ.get("AIRFLOW_HOME") or Path.home() / "airflow")
        return (home / "validation").resolve().as_uri()

    def prefix(self, context: Any) -> str:
        """Return the folder of this run below the storage."""
        index = getattr(context["ti"], "map_index", -1)
        return self.run_key if index is None or index < 0 else f"{self.run_key}/{index}"


class Expecting(Validating):
    """Base of the operators that take expectations."""

    template_fields: Sequence[str] = (*Validating.template_fields, "suite", "suite_name", "suite_parameters")

    def __init__(
        self,
        *,
        configure_expectations: Callable[[Any], Any] | None = None,
        expect: Any = None,
        suite: str | None = None,
        suite_name: str = "",
        suite_parameters: Mapping[str, Any] | None = None,
        result_format: ResultFormat | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _exactly_one(self, configure_expectations=configure_expectations, expect=expect, suite=suite)
        self.configure_expectations = configure_expectations
        self.expect = expect
        self.suite = suite
        self.suite_name = suite_name
        self.suite_parameters = suite_parameters
        self.result_format = result_format

    def checks(self, engine_context: Any, quarantine: Mapping[str, Any] | None = None) -> Checks:
        """Return the suite, and how to check it."""
        from operators.validation.validation import Checks, expected

        name, wanted, objects = expected(
            self.task_id,
            suite=(INCLUDE / self.suite, self.suite_name) if self.suite else None,
            objects=None if self.suite else self._given(engine_context),
            quarantine=quarantine,
        )
        parameters = self.suite_parameters or {}
        return Checks(name, wanted, objects, parameters, self.result_format or "SUMMARY", self.fail_on)

    def _given(self, engine_context: Any) -> Any:
        return self.configure_expectations(engine_context) if self.configure_expectations else self.expect


class ValidateOperator(Expecting):
    """Validate files, a data frame, or a table in a database with Great Expectations.

    Files and data frames are checked by Great Expectations' own SQL on DuckDB, within 1 GB of memory beside the data
    frame. An expectation that SQL evaluates otherwise than pandas is checked by pandas, on its columns alone, and the
    log says so. A table is checked in its database.

    Below ``storage`` the run leaves ``docs/`` (Data Docs), ``result.json`` (the full result) and, with a quarantine,
    ``quarantine.parquet`` (the bad rows, with a list ``quarantine_reasons``) and ``good.parquet`` (the other rows). A
    retry writes them again. The event of each outlet has ``passed`` (by ``fail_on``), ``success`` (nothing failed at
    all), ``checks``, ``critical``, ``warning`` and ``info`` (failed expectations), ``rows``, ``quarantined_rows``,
    ``quarantine_uri``, ``dataset_uri`` and ``docs_url``.

    Give exactly one of ``source``, ``configure_dataframe``, ``table`` and ``query``, and exactly one of
    ``configure_expectations``, ``expect`` and ``suite``.

    :param source: Parquet, or CSV with a header: a file, a folder, or a pattern with ``*`` in its last part, as an
        ``s3://`` or ``file://`` address or an absolute path. S3 uses the usual ``AWS_*`` variables (templated)
    :param file_format: ``parquet`` or ``csv``. Default: by the ending of the names
    :param configure_dataframe: function that returns a pandas data frame; it is called when the task runs
    :param table: name of a table; needs ``conn_id`` (templated)
    :param query: a SELECT in place of a table; needs ``conn_id`` (templated)
    :param schema: schema of the table (templated)
    :param conn_id: Airflow connection of the database: ``postgres``, ``sqlite``, or another type whose provider is
        installed (templated)
    :param statement_timeout_s: seconds after which PostgreSQL ends a statement
    :param quarantine: ``{"max_rows_pct": 1, "max_rows": 100000}`` sets aside the rows that break a critical
        expectation about rows, if they are no more than this and the other rows pass the whole suite. Default: what
        the YAML file says
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
    :param context_type: ``ephemeral`` only. For GX Cloud and file contexts see `ValidateBatchOperator` and
        `ValidateCheckpointOperator`
    :returns: Great Expectations' description of the good rows (``success``, ``statistics``, ``expectations``), with
        at most 20 unexpected values each, and ``dataset_uri``. The XCom ``report`` has the event's facts and the
        findings in short
    :raises GXValidationFailed: the data does not meet the expectations; a retry cannot help
    :raises AirflowFailException: the expectations or the source are wrong; a retry cannot help
    """

    template_fields: Sequence[str] = (*Expecting.template_fields, "source", "table", "query", "schema", "conn_id")

    def __init__(
        self,
        *,
        source: str | None = None,
        file_format: Literal["parquet", "csv"] | None = None,
        configure_dataframe: Callable[[], Any] | None = None,
        table: str | None = None,
        query: str | None = None,
        schema: str | None = None,
        conn_id: str | None = None,
        statement_timeout_s: float = 1800,
        quarantine: Mapping[str, Any] | None = None,
        context_type: Literal["ephemeral"] = "ephemeral",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _exactly_one(self, source=source, configure_dataframe=configure_dataframe, table=table, query=query)
        if (table or query) and not conn_id:
            raise ValueError(
                f"{self.task_id}: a table or a query needs conn_id, the Airflow connection of its database"
            )
        if context_type != "ephemeral":
            raise ValueError(
                f"{self.task_id}: context_type {context_type!r} is not possible here; use ValidateBatchOperator"
            )
        self.source = source
        self.file_format = file_format
        self.configure_dataframe = configure_dataframe
        self.table = table
        self.query = query
        self.schema = schema
        self.conn_id = conn_id
        self.statement_timeout_s = statement_timeout_s
        self.quarantine = quarantine

    def validate(self, context: Any) -> dict[str, Any]:
        """Validate the source that was given."""
        from operators.core.storage import Storage
        from operators.validation.gx_context import Engine
        from operators.validation.validation import Validation

        engine = Engine()
        checks = self.checks(engine.context, self.quarantine)
        work = Validation(engine, Storage(self.storage_root()), self.prefix(context))
        self._stop = work.stop
        validated = self._validated(work, checks)
        described = {**validated.described, "dataset_uri": validated.report.dataset_uri}
        return self.finish(context, described, validated.report)

    def _validated(self, work: Validation, checks: Checks) -> Validated:
        if self.source:
            return work.files(checks, self.source, self.file_format)
        if self.configure_dataframe:
            return work.frame(checks, self.configure_dataframe())
        from operators.validation.database import Database, open_engine
        from operators.validation.hook import database_url

        engine = open_engine(database_url(str(self.conn_id)), statement_timeout_s=self.statement_timeout_s)
        try:
            return work.table(checks, Database(engine, self.table or "", self.schema, self.query or ""))
        finally:
            engine.dispose()


def _exactly_one(operator: BaseOperator, **given: Any) -> None:
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        raise ValueError(
            f"{operator.task_id}: give exactly one of {', '.join(given)}; got {', '.join(named) or 'none'}"
        )
