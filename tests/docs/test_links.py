"""Every link and every path in the documents leads to something."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.support.documents import ROOT, anchors, code, links, pages

OURS = re.compile(r"(operators|ray_jobs|dags|plugins|include|examples|benchmarks|tests|tools|docs)/[\w./-]+")


def broken(page: Path, address: str) -> str:
    path, _, anchor = unquote(address).partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.is_relative_to(ROOT) or not target.exists():
        return "there is no such file"
    if anchor and target.suffix == ".md" and anchor not in anchors(target):
        return "the page has no such heading"
    return ""


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    problems = [f"{page}:{line}: {address}: {why}" for line, address in links(page) if (why := broken(page, address))]

    assert problems == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_path_in_the_text_exists(page: Path) -> None:
    named = [one for one in code(page) if one.language == "inline" and OURS.fullmatch(one.text)]

    assert [f"{one.place}: {one.text}" for one in named if not (ROOT / one.text).exists()] == []
