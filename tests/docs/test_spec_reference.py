"""Every key of the spec is described, and the reference of the spec is what the fields say."""

from __future__ import annotations

import re

import pytest
from pydantic.fields import FieldInfo

from operators.core.spec import PredictionSpec
from tools import spec_reference

FEWEST_WORDS = 4


def fields() -> list[tuple[str, FieldInfo]]:
    return [
        (f"{path}.{field.alias or name}", field)
        for path, model in spec_reference.sections_of("", PredictionSpec)
        for name, field in model.model_fields.items()
    ]


@pytest.mark.parametrize(("key", "field"), fields(), ids=[key for key, _ in fields()])
def test_every_key_is_described(key: str, field: FieldInfo) -> None:
    text = field.description or ""

    assert text.endswith("."), f"{key}: a description is one or more whole sentences"
    assert len(text.split()) >= FEWEST_WORDS, f"{key}: {text!r} says too little"
    assert text[0].isupper() or text[0] == "`", f"{key}: a sentence begins with a capital"


@pytest.mark.parametrize(("key", "field"), fields(), ids=[key for key, _ in fields()])
def test_no_default_is_repeated_in_prose(key: str, field: FieldInfo) -> None:
    text = field.description or ""

    assert not re.search(r"\bdefault\b", text), f"{key}: the table has the default already"
    if field.get_default() is not None:
        assert "leave it out" not in text.lower(), f"{key}: the table says what happens if it is left out"


def test_every_section_has_a_sentence_and_an_anchor_of_its_own() -> None:
    sections = list(spec_reference.sections_of("", PredictionSpec))
    places = [path for path, _ in sections]

    assert len(places) == len(set(places))
    assert all((model.__doc__ or "").strip() for _, model in sections)
    assert "release.judge.business.<name>" in places


def test_the_page_is_current() -> None:
    assert spec_reference.PAGE.read_text(encoding="utf-8") == spec_reference.page(), (
        "run .venv/bin/python tools/spec_reference.py"
    )
