"""Taxiway's exceptions. The class says whether a retry can help. The message says what is wrong, where, and what to do."""

from __future__ import annotations


class TaxiwayError(Exception):
    """Base of all exceptions that Taxiway raises on purpose."""


class ConfigurationError(TaxiwayError):
    """Something that a person wrote is wrong. A retry cannot help."""


class SpecError(ConfigurationError):
    """A model's YAML spec is wrong. The message names the file, the line and the key, and suggests a correction."""


class RejectedError(TaxiwayError):
    """The work was done, and the answer is no: validation, the gate or the judge refused. A retry cannot help."""


class ServiceError(TaxiwayError):
    """A service did not answer, or failed itself (5xx). A retry can help."""


class ServiceRefusedError(TaxiwayError):
    """A service understood the request and refused it (4xx). A retry cannot help."""


class BusyError(TaxiwayError):
    """Another release holds the model. Waiting helps.

    :param model: the model
    :param holder: id of the release that holds it
    """

    def __init__(self, model: str, holder: str) -> None:
        super().__init__(f"release {holder} of {model} is under way; wait for its end, or let this one supersede it")
        self.model = model
        self.holder = holder
