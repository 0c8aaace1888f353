"""Tell people what a release does, through Airflow's notifiers. A message that cannot be sent never stops a release."""

from __future__ import annotations

import html
import logging
from collections.abc import Mapping
from typing import Any

import httpx
from airflow.sdk import Connection
from airflow.sdk.bases.notifier import BaseNotifier

from operators.core.errors import TaxiwayError
from operators.core.extras import require
from operators.core.http import client, require_success, unreachable
from operators.core.spec import ModelSpec
from operators.core.spec_operations import Moment, Notify

_TIMEOUT_S = 10.0
_TITLES: Mapping[Moment, str] = {
    "start": "release started",
    "step": "step passed",
    "pause": "release waits",
    "rolled_back": "rolled back",
    "promoted": "promoted",
}
_log = logging.getLogger(__name__)


def tell(spec: ModelSpec, moment: Moment, text: str, context: Any, **facts: Any) -> None:
    """Send a message to everybody whom the spec names for this moment.

    :param text: what happened, for a person
    :param facts: fields for webhooks: release_id, version, stable, …
    """
    for wanted in spec.release.notify:
        if moment not in wanted.when:
            continue
        title = f"{spec.name}: {_TITLES[moment]}"
        try:
            # Not by calling the notifier: that would render the text as a template, and the text may quote anything.
            notifier(wanted, title, text, {"model": spec.name, "moment": moment, **facts}).notify(context)
        except Exception as error:  # noqa: BLE001 - a mail server that is down must not hold up a rollback
            # The message may quote an address with its password; the type and the connection's name do not.
            problem = str(error) if isinstance(error, TaxiwayError) else type(error).__name__
            _log.warning("%s by %s (connection %s) was not sent: %s", title, wanted.by, wanted.connection, problem)


def notifier(wanted: Notify, title: str, text: str, facts: Mapping[str, Any]) -> BaseNotifier:
    """Return the notifier for one message.

    :raises ConfigurationError: its provider is not installed
    """
    if wanted.by == "webhook":
        return WebhookNotifier(wanted.connection, {"title": title, "text": text, **facts})
    return _smtp(wanted, title, text) if wanted.by == "smtp" else _slack(wanted, title, text)


def _smtp(wanted: Notify, title: str, text: str) -> BaseNotifier:
    from airflow.providers.smtp.notifications.smtp import SmtpNotifier

    to = [address.strip() for address in wanted.to.split(",") if address.strip()]
    body = f"<p>{html.escape(text)}</p>"
    return SmtpNotifier(to=to, subject=title, html_content=body, smtp_conn_id=wanted.connection)


def _slack(wanted: Notify, title: str, text: str) -> BaseNotifier:
    require("slack", "airflow.providers.slack", purpose="a message to Slack")
    from airflow.providers.slack.notifications.slack_webhook import SlackWebhookNotifier

    return SlackWebhookNotifier(
        slack_webhook_conn_id=wanted.connection,
        text=f"*{title}*\n{text}",
        channel=wanted.to or None,
        timeout=_TIMEOUT_S,
    )


class WebhookNotifier(BaseNotifier):
    """POST a message as JSON to the address of an HTTP connection. The connection's password is sent as a bearer
    token.

    :param connection: id of an Airflow connection of type ``http``
    :param message: the message, as JSON types
    """

    def __init__(self, connection: str, message: Mapping[str, Any]) -> None:
        super().__init__()
        self.connection = connection
        self.message = dict(message)

    def notify(self, context: Any) -> None:
        """Send the message.

        :raises ServiceError: the address did not answer, or answered with a 5xx
        :raises ServiceRefusedError: the address refused the message
        """
        address = Connection.get(self.connection)
        host = address.host or ""
        base = host if "://" in host else f"{address.schema or 'https'}://{host}"
        base += f":{address.port}" if address.port else ""
        try:
            with client(base, token=address.password, timeout_s=_TIMEOUT_S) as http:
                require_success(http.post(address.extra_dejson.get("path", ""), json=self.message), "the webhook")
        except httpx.HTTPError as error:
            raise unreachable("the webhook", error) from error
