"""docs/api.md is what the code says, and has everything that users import."""

from __future__ import annotations

import importlib

import cmg_runtime
from tests.api_page import CHAPTERS, DOCUMENT, page


def test_the_page_is_what_the_docstrings_say() -> None:
    """After a change of a signature or a docstring: python -m tests.api_page."""
    assert DOCUMENT.read_text(encoding="utf-8") == page()


def test_everything_that_a_package_offers_is_in_it() -> None:
    for _, module, names in CHAPTERS:
        offered = getattr(importlib.import_module(module), "__all__", ())
        assert {name for name in offered if not name.startswith("_")} <= set(names)
    text = DOCUMENT.read_text(encoding="utf-8")
    methods = [name for name, member in vars(cmg_runtime.Engine).items() if callable(member) and name[0] != "_"]
    assert len(methods) > 10
    assert [name for name in methods if f"#### Engine.{name}\n" not in text] == []
