"""The edge: who may call, how often, with how much, and over TLS."""

from __future__ import annotations

import hashlib
import http.client
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from operators.core.errors import ConfigurationError
from operators.core.traffic import Route
from ray_jobs.edge import Edge, EdgeConfig
from tests.support.edge_servers import INFER, MODEL, Answer, Caller, pid_of

Start = Callable[..., Edge]


@pytest.fixture
def start(config: EdgeConfig) -> Iterator[Start]:
    edges: list[Edge] = []

    def start(**changes: Any) -> Edge:
        edges.append(Edge(replace(config, **changes)))
        edges[-1].start()
        edges[-1].set_route(Route(model=MODEL, stable="3"))
        return edges[-1]

    yield start
    for edge in edges:
        edge.stop()


def write_tokens(path: Path, **tokens: str) -> Path:
    lines = [f"{hashlib.sha256(token.encode()).hexdigest()} {name}\n" for name, token in tokens.items()]
    path.write_text("# callers\n\n" + "".join(lines))
    return path


class TestTokens:
    def test_only_who_has_a_token_is_let_in(self, start: Start, tmp_path: Path) -> None:
        file = write_tokens(tmp_path / "tokens", shop="s3cret", lab="other")
        edge = start(tokens=file)
        call = Caller(edge)
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Basic s3cret"},
            {"Authorization": "s3cret"},
        ):
            answer = call(**headers)
            assert (answer.status, answer.version) == (401, None)
            assert "token" in answer.json["error"]
        for token in ("s3cret", "other"):
            answer = call(Authorization=f"Bearer {token}")
            assert answer.status == 200
            assert "authorization" not in answer.json["headers"]  # the model has no use for it
        assert call("GET", "/v2/health/live").status == 200
        assert call("GET", f"/v2/models/{MODEL}").status == 401
        pid = pid_of(edge)
        assert b"s3cret" not in Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        assert not any(
            b"s3cret" in path.read_bytes() for path in Path(edge.config.state_dir).iterdir() if path.is_file()
        )

    def test_a_token_that_is_taken_back_ends_without_a_restart(self, start: Start, tmp_path: Path) -> None:
        file = write_tokens(tmp_path / "tokens", shop="s3cret")
        edge = start(tokens=file)
        pid, call = pid_of(edge), Caller(edge)
        assert call(Authorization="Bearer s3cret").status == 200
        write_tokens(file, lab="other")
        edge.start()
        assert call(Authorization="Bearer s3cret").status == 401
        assert call(Authorization="Bearer other").status == 200
        assert pid_of(edge) == pid

    def test_a_file_with_a_token_in_it_is_refused(self, config: EdgeConfig, tmp_path: Path) -> None:
        (tmp_path / "tokens").write_text("s3cret shop\n")
        with pytest.raises(ConfigurationError, match=r"line 1.*SHA-256") as caught:
            Edge(replace(config, tokens=tmp_path / "tokens")).start()
        assert "s3cret" not in str(caught.value)


class TestRates:
    def test_an_address_that_asks_too_often_is_told_to_wait(self, start: Start) -> None:
        call = Caller(start(requests_per_s=20))
        answers = [call() for _ in range(30)]
        assert {answer.status for answer in answers[:20]} == {200}
        assert {answer.status for answer in answers[25:]} == {429}
        assert call("GET", "/v2/health/live").status == 200

    def test_each_token_has_its_own_rate(self, start: Start, tmp_path: Path) -> None:
        file = write_tokens(tmp_path / "tokens", shop="s3cret", lab="other")
        call = Caller(start(requests_per_s=20, tokens=file))
        assert 429 in {call(Authorization="Bearer s3cret").status for _ in range(30)}
        assert call(Authorization="Bearer other").status == 200


class TestBodies:
    def begin(self, edge: Edge, header: tuple[str, str], body: bytes) -> Answer:
        """Send a request that does not end: whoever is refused is told so at once, and the connection closed."""
        connection = http.client.HTTPConnection(edge.config.bind, timeout=5)
        connection.putrequest("POST", INFER)
        connection.putheader(*header)
        connection.endheaders()
        connection.send(body)
        return Answer(connection.getresponse())

    def test_what_is_too_large_is_refused(self, start: Start) -> None:
        edge = start(max_body_bytes=1_048_576)
        assert Caller(edge)(body=b"x" * 1_048_576).json["bytes"] == 1_048_576
        answer = self.begin(edge, ("Content-Length", "1048577"), b"")
        assert answer.status == 413
        assert "1048576 bytes" in answer.json["error"]

    def test_what_is_too_large_and_does_not_say_so_is_refused(self, start: Start) -> None:
        edge = start(max_body_bytes=1_048_576)
        assert Caller(edge)(body=iter([b"x" * 65_536] * 16)).json["bytes"] == 1_048_576
        chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
        answer = self.begin(edge, ("Transfer-Encoding", "chunked"), chunk * 17)
        assert answer.status == 413

    def test_an_answer_is_passed_on_while_it_grows(self, edge: Edge, call: Caller, versions: Any) -> None:
        versions.behaviour["3"] = "stream"
        connection = http.client.HTTPConnection(edge.config.bind, timeout=5)
        connection.request("POST", INFER, body=b"{}")
        response = connection.getresponse()
        came = [(response.read1(), time.monotonic()) for _ in range(3)]
        assert [chunk for chunk, _ in came] == [b"0", b"1", b"2"]
        assert came[1][1] - came[0][1] > 0.05


class TestTls:
    def certificate(self, path: Path, name: str) -> Path:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder(
                subject, subject, key.public_key(), x509.random_serial_number(), now, now + timedelta(1)
            )
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .sign(key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        path.write_bytes(made.public_bytes(pem) + private)
        return path

    def seen(self, edge: Edge, trusted: Path, name: str) -> int:
        context = ssl.create_default_context(cafile=str(trusted))
        host, _, port = edge.config.bind.partition(":")
        with (
            socket.create_connection((host, int(port)), timeout=5) as raw,
            context.wrap_socket(raw, server_hostname=name) as client,
        ):
            client.sendall(f"GET {INFER} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            return int(client.recv(12)[9:12])

    def test_a_certificate_is_used_and_replaced_without_a_restart(self, start: Start, tmp_path: Path) -> None:
        old = self.certificate(tmp_path / "edge.pem", "old.example")
        edge = start(certificate=old)
        pid = pid_of(edge)
        assert edge.ready()
        assert self.seen(edge, old, "old.example") == 200
        os.replace(self.certificate(tmp_path / "new.pem", "new.example"), old)
        edge.start()
        assert self.seen(edge, old, "new.example") == 200
        assert pid_of(edge) == pid
