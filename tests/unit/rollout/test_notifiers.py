"""Messages of a release, received by real servers on this machine."""

from __future__ import annotations

import json
import logging
import socketserver
import threading
from collections.abc import Iterator
from email import message_from_string
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from operators.rollout.notifiers import tell
from tests.support.specs import small_spec


class Inbox(BaseHTTPRequestHandler):
    received: list[tuple[str, str, Any]] = []
    status = 200

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        Inbox.received.append((self.path, self.headers.get("Authorization", ""), json.loads(body)))
        self.send_response(Inbox.status)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


class Smtp(socketserver.StreamRequestHandler):
    """As much of SMTP as taking a message needs."""

    mails: list[str] = []

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        while line := self.rfile.readline().strip().upper():
            if line == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = []
                while (text := self.rfile.readline()) != b".\r\n":
                    lines.append(text.decode())
                Smtp.mails.append("".join(lines))
            self.wfile.write(b"221 bye\r\n" if line == b"QUIT" else b"250 ok\r\n")
            if line == b"QUIT":
                return


def serve(server: Any) -> Iterator[int]:
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture
def http_port() -> Iterator[int]:
    Inbox.received.clear()
    Inbox.status = 200
    yield from serve(HTTPServer(("127.0.0.1", 0), Inbox))


@pytest.fixture
def smtp_port() -> Iterator[int]:
    Smtp.mails.clear()
    yield from serve(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Smtp))


def webhook(**more: Any) -> dict[str, Any]:
    return {"when": ["rolled_back"], "by": "webhook", "connection": "hook", **more}


def test_a_webhook_gets_the_facts_and_the_token(http_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = json.dumps({"path": "/in"})
    conn = {"conn_type": "http", "host": "http://127.0.0.1", "port": http_port, "password": "s3cret", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_HOOK", json.dumps(conn))
    tell(
        small_spec(release={"notify": [webhook()]}), "rolled_back", "20 of 20 {{ failed }}", {}, version="2", stable="1"
    )
    ((path, token, said),) = Inbox.received
    assert (path, token) == ("/in", "Bearer s3cret")
    assert said["text"] == "20 of 20 {{ failed }}"  # what a model has said is never a template
    assert (said["model"], said["moment"], said["version"], said["stable"]) == ("small", "rolled_back", "2", "1")


def test_only_the_moments_that_were_asked_for(http_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_HOOK", json.dumps({"conn_type": "http", "host": "127.0.0.1", "port": http_port}))
    tell(small_spec(release={"notify": [webhook()]}), "promoted", "fine", {})
    assert not Inbox.received


def test_mail(smtp_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"disable_ssl": True, "disable_tls": True, "from_email": "taxiway@example.org"}
    conn = {"conn_type": "smtp", "host": "127.0.0.1", "port": smtp_port, "extra": json.dumps(extra)}
    monkeypatch.setenv("AIRFLOW_CONN_MAIL", json.dumps(conn))
    wanted = {"when": ["pause"], "by": "smtp", "connection": "mail", "to": "a@example.org, b@example.org"}
    tell(small_spec(release={"notify": [wanted]}), "pause", "a <b>person</b> is asked {{ 1 }}", {})
    (mail,) = Smtp.mails
    assert "Subject: small: release waits" in mail
    assert "a@example.org" in mail
    (text,) = (part for part in message_from_string(mail).walk() if part.get_content_type() == "text/html")
    assert text.get_payload(decode=True) == b"<p>a &lt;b&gt;person&lt;/b&gt; is asked {{ 1 }}</p>"


@pytest.mark.parametrize("by", ["webhook", "smtp"])
def test_whatever_goes_wrong_stops_no_release_and_tells_no_secret(
    by: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    conn = {"conn_type": "http", "host": "127.0.0.1", "port": 9, "password": "s3cret"}
    monkeypatch.setenv("AIRFLOW_CONN_HOOK", json.dumps(conn))
    with caplog.at_level(logging.WARNING):
        tell(small_spec(release={"notify": [webhook(by=by, to="a@example.org")]}), "rolled_back", "text", {})
    assert "was not sent" in caplog.text
    assert "s3cret" not in caplog.text


def test_a_provider_that_is_missing_is_named(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "airflow.providers.slack", None)
    with caplog.at_level(logging.WARNING):
        tell(small_spec(release={"notify": [webhook(by="slack")]}), "rolled_back", "text", {})
    assert "pip install 'taxiway[slack]'" in caplog.text
