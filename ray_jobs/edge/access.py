"""Who may call: the callers' tokens and the certificate. Both may change while HAProxy runs."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from operators.core.errors import ConfigurationError
from ray_jobs.edge.admin_socket import RuntimeSocket
from ray_jobs.edge.files import write

_TOKENS, _CERTIFICATE = "tokens.map", "certificate.sha256"
_TOKEN = re.compile(r"([0-9a-f]{64})\s+([A-Za-z0-9_.@-]{1,63})")


class Access:
    """The callers' tokens and the certificate of one edge.

    :param folder: the edge's state directory
    :param tokens: file with a line ``<SHA-256 of the token, hex> <caller's name>`` for each caller; None: none are needed
    :param certificate: PEM file with a certificate and its key; None: no TLS
    """

    def __init__(self, folder: Path, tokens: Path | None, certificate: Path | None) -> None:
        self._folder = folder
        self._tokens = tokens
        self._certificate = certificate

    def prepare(self) -> None:
        """Write the files that HAProxy reads when it starts.

        :raises ConfigurationError: if the file of tokens is not valid
        """
        lines = [] if self._tokens is None else read_tokens(self._tokens)
        write(self._folder / _TOKENS, "".join(f"{line}\n" for line in lines), durable=False)
        if self._certificate is not None:
            self._remember(self._certificate.read_bytes())

    def refresh(self, runtime: RuntimeSocket) -> None:
        """Load the tokens and the certificate into a running HAProxy, if their files have changed.

        :raises ConfigurationError: if the file of tokens is not valid
        :raises ServiceError: if HAProxy does not take it
        """
        if self._tokens is not None:
            text = "".join(f"{line}\n" for line in read_tokens(self._tokens))
            if text != (self._folder / _TOKENS).read_text():
                runtime.replace_map(_TOKENS, text.splitlines())
                write(self._folder / _TOKENS, text, durable=False)
        if self._certificate is not None:
            pem = self._certificate.read_bytes()
            if hashlib.sha256(pem).hexdigest() != (self._folder / _CERTIFICATE).read_text():
                runtime.replace_certificate(str(self._certificate), pem.decode("ascii", "replace"))
                self._remember(pem)

    def _remember(self, pem: bytes) -> None:
        write(self._folder / _CERTIFICATE, hashlib.sha256(pem).hexdigest(), durable=False)


def read_tokens(path: Path) -> list[str]:
    """Return the lines of a file of tokens, without comments.

    :raises ConfigurationError: if a line is not valid; the message does not repeat it, as it may be a token
    """
    lines = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _TOKEN.fullmatch(line.strip())
        if match is None:
            raise ConfigurationError(
                f"{path}, line {number}: expected the SHA-256 of a token (64 hex digits, lower case) and a caller's name"
            )
        lines.append(f"{match[1]} {match[2]}")
    return lines
