"""Run batches and checkpoints of Great Expectations, and report them by severity. No Airflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from operators.core.storage import Storage
from operators.validation.gx_context import Engine, Outcome, check_batch
from operators.validation.policy import FailOn, Finding, finding
from operators.validation.report import TableReport
from operators.validation.suites import described, import_gx
from operators.validation.validation import Checks, Validated, keep_docs, keep_result, shortened


def open_context(context_type: str, cloud: Mapping[str, str]) -> Engine:
    """Return an engine over a context in memory, or over GX Cloud.

    :param cloud: arguments for GX Cloud. Default: its own environment variables
    """
    if context_type != "cloud":
        return Engine()
    return Engine(import_gx().get_context(mode="cloud", **cloud))


def validate_batch(
    engine: Engine,
    batch_definition: Any,
    checks: Checks,
    *,
    batch_parameters: Mapping[str, Any],
    storage: Storage | None,
    prefix: str,
) -> Validated:
    """Check a batch, and keep Data Docs and the full result.

    :param storage: where Data Docs and the full result are kept; None: the context keeps them itself
    """
    if storage is None:
        return _kept_by_context(engine.context, batch_definition, checks, batch_parameters)
    result = check_batch(
        batch_definition, checks.objects, checks.name, checks.result_format, checks.parameters, batch_parameters or None
    )
    outcome = Outcome(result, _rows(result), {})
    engine.keep_page(outcome, checks.objects)
    docs_url = keep_docs(engine, storage, prefix)
    return _judged(keep_result(outcome, storage, prefix), [result], checks.fail_on, docs_url)


def run_checkpoint(context: Any, checkpoint: Any, *, batch_parameters: Mapping[str, Any], fail_on: FailOn) -> Validated:
    """Run a checkpoint with its actions."""
    result = checkpoint.run(batch_parameters=dict(batch_parameters) or None)
    sites = [site["site_url"] for site in context.get_docs_sites_urls() if site["site_url"]]
    return _judged(
        shortened(result.describe_dict()), list(result.run_results.values()), fail_on, sites[0] if sites else None
    )


def _kept_by_context(context: Any, batch_definition: Any, checks: Checks, batch_parameters: Any) -> Validated:
    from great_expectations import ExpectationSuite, ValidationDefinition

    suite = context.suites.add_or_update(ExpectationSuite(name=checks.name, expectations=list(checks.objects)))
    definition = context.validation_definitions.add_or_update(
        ValidationDefinition(name=checks.name, suite=suite, data=batch_definition)
    )
    result = definition.run(
        batch_parameters=batch_parameters or None,
        expectation_parameters=checks.parameters or None,
        result_format=checks.result_format,
    )
    return _judged(shortened(result.describe_dict()), [result], checks.fail_on, result.result_url)


def _judged(described_: dict[str, Any], results: list[Any], fail_on: FailOn, docs_url: str | None) -> Validated:
    findings = tuple(f for result in results for f in _findings(result))
    report = TableReport(
        passed=not any(f.fails(fail_on) for f in findings),
        findings=findings,
        rows=max((_rows(result) for result in results), default=0),
        dataset_uri=None,
        docs_url=docs_url,
    )
    return Validated(report, described_)


def _findings(result: Any) -> list[Finding]:
    rows = _rows(result)
    objects = [one.expectation_config.to_domain_obj() for one in result.results]
    words = described(objects)
    return [
        finding(result.suite_name, expectation, one.to_json_dict(), rows, None)
        for expectation, one in zip(words, result.results, strict=True)
    ]


def _rows(result: Any) -> int:
    """Return the number of rows, if an expectation reports it; otherwise 0."""
    counts = ((one.result or {}).get("element_count") for one in result.results)
    return max((int(count) for count in counts if count is not None), default=0)
