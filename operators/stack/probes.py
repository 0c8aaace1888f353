"""Checks whether a service is ready, with short time-outs and without heavy imports."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import socket
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

CHECK_TIMEOUT_S = 2.0
_DEFAULT_PORT = {"http": 80, "https": 443, "postgresql": 5432}


def connects(url: str, timeout_s: float = CHECK_TIMEOUT_S) -> bool:
    """Say whether somebody listens at the host and port of a URL."""
    parts = urlsplit(url)
    port = parts.port or _DEFAULT_PORT.get(parts.scheme.split("+")[0], 443)
    try:
        with socket.create_connection((parts.hostname or "127.0.0.1", port), timeout_s):
            return True
    except OSError:
        return False


def get(
    url: str, headers: Mapping[str, str] | None = None, *, method: str = "GET", timeout_s: float = CHECK_TIMEOUT_S
) -> tuple[int, bytes]:
    """Return status and body; (0, b"") if nobody answered. No proxy is used."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    with closing(kind(parts.hostname or "", parts.port, timeout=timeout_s)) as connection:
        try:
            connection.request(method, path, headers=dict(headers or {}))
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            return 0, b""


def get_json(url: str, headers: Mapping[str, str] | None = None) -> Any:
    """Return the JSON of a 200 answer, else None."""
    status, body = get(url, headers)
    if status != 200:
        return None
    try:
        return json.loads(body)
    except ValueError:
        return None


def bucket_exists(endpoint: str, bucket: str, access_key: str, secret_key: str, region: str = "us-east-1") -> bool:
    """Ask S3 with a signed HEAD: boto3 would cost a second and 40 MB for one request."""
    host, path = urlsplit(endpoint).netloc, f"/{bucket}"
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    empty = hashlib.sha256(b"").hexdigest()
    signed = "host;x-amz-content-sha256;x-amz-date"
    request = f"HEAD\n{path}\n\nhost:{host}\nx-amz-content-sha256:{empty}\nx-amz-date:{now}\n\n{signed}\n{empty}"
    scope = f"{now[:8]}/{region}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    authorization = f"AWS4-HMAC-SHA256 Credential={access_key}/{scope}, SignedHeaders={signed}, Signature={signature}"
    headers = {"x-amz-content-sha256": empty, "x-amz-date": now, "Authorization": authorization}
    return get(endpoint + path, headers, method="HEAD")[0] == 200
