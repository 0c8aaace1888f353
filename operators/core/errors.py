"""One exception tree. The class says whether a retry can help; the message says what, where and how to mend it."""

from __future__ import annotations


class TaxiwayError(Exception):
    """Base of everything that Taxiway raises on purpose."""


class ConfigurationError(TaxiwayError):
    """Something that a person wrote is wrong. A retry cannot help."""


class SpecError(ConfigurationError):
    """A model's YAML spec is wrong; the message names file, line, key and a suggestion."""


class RejectedError(TaxiwayError):
    """The work was done and the answer is no: data failed validation, a gate or a canary said no. A retry cannot help."""


class ServiceError(TaxiwayError):
    """A service did not answer, or answered with its own failure. A retry can help."""


class ServiceRefusedError(TaxiwayError):
    """A service understood the call and refused it (4xx). A retry cannot help."""


class BusyError(TaxiwayError):
    """Another release holds the model. Waiting helps.

    :param model: the model
    :param holder: id of the release that holds it
    """

    def __init__(self, model: str, holder: str) -> None:
        super().__init__(f"release {holder} of {model} is under way; wait for its end, or let this one supersede it")
        self.model = model
        self.holder = holder
