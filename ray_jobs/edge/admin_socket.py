"""HAProxy's runtime socket: commands and their answers."""

from __future__ import annotations

import os
import re
import socket
import time
from pathlib import Path

from operators.core.errors import ServiceError

_TIMEOUT_S = 5.0


class RuntimeSocket:
    """The runtime socket of one HAProxy. Each command is a connection of its own.

    :param socket_path: where HAProxy listens
    """

    def __init__(self, socket_path: Path) -> None:
        self._path = socket_path

    def ask(self, command: str) -> str:
        """Send one command, or several with ``;`` between, and return the answer.

        :raises ServiceError: if HAProxy does not answer
        """
        deadline = time.monotonic() + _TIMEOUT_S
        folder = None
        try:
            # A socket's path has at most 107 bytes. A path through /proc is short, whatever the folder's length.
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.settimeout(_TIMEOUT_S)
                client.connect(f"/proc/self/fd/{folder}/{self._path.name}")
                client.sendall(f"{command}\n".encode())
                return _read_all(client, deadline)
        except OSError as error:
            raise ServiceError(f"the HAProxy of {self._path.parent} does not answer: {error}") from error
        finally:
            if folder is not None:
                os.close(folder)

    def tell(self, command: str) -> None:
        """Send a command that has no answer when it succeeds.

        :raises ServiceError: if there is an answer, or HAProxy cannot be reached
        """
        answer = self.ask(command).strip()
        if answer:
            raise ServiceError(f"HAProxy refused {command.splitlines()[0]!r}: {answer}")

    def pid(self) -> int | None:
        """Return the pid of the HAProxy that answers, if one does."""
        try:
            match = re.search(r"^Pid: (\d+)$", self.ask("show info"), re.MULTILINE)
        except ServiceError:
            return None
        return int(match[1]) if match else None

    def map_lines(self, name: str) -> list[str]:
        """Return the lines of a map, ``key value``.

        :raises ServiceError: if HAProxy does not answer
        """
        # Every line is: address, key, value.
        return [line.split(" ", 1)[1] for line in self.ask(f"show map {name}").splitlines() if line.strip()]

    def replace_map(self, name: str, lines: list[str]) -> None:
        """Replace a map in one step: no request sees half of it.

        :param lines: ``key value``
        :raises ServiceError: if HAProxy does not take it
        """
        answer = self.ask(f"prepare map {name}")
        match = re.search(r"version created: (\d+)", answer)
        if match is None:
            raise ServiceError(f"HAProxy did not prepare {name}: {answer}")
        if lines:
            text = "\n".join(lines)
            self.tell(f"add map @{match[1]} {name} <<\n{text}\n")
        self.tell(f"commit map @{match[1]} {name}")

    def replace_certificate(self, name: str, pem: str) -> None:
        """Replace a certificate and its key. Open connections keep the old one.

        :raises ServiceError: if HAProxy does not take it
        """
        text = "\n".join(line for line in pem.splitlines() if line.strip())  # a blank line would end the command
        self.ask(f"set ssl cert {name} <<\n{text}\n")
        answer = self.ask(f"commit ssl cert {name}")
        if "Success" not in answer:
            raise ServiceError(f"HAProxy refused the certificate {name}: {answer.strip()}")


def _read_all(client: socket.socket, deadline: float) -> str:
    """Read until the other side closes. The deadline holds for all of it."""
    chunks = []
    while chunk := client.recv(65_536):
        chunks.append(chunk)
        client.settimeout(max(deadline - time.monotonic(), 0.001))
    return b"".join(chunks).decode()
