"""The table of what there is of Isaac Gym's API says what there is."""

from __future__ import annotations

import re

import pytest

from isaacgym import gymapi
from isaacgym.structs import GymError
from tests.isaacgym_coverage import DOCUMENT, HEADER, callers, methods

TEXT = DOCUMENT.read_text(encoding="utf-8")


def rows() -> list[tuple[str, str, str]]:
    table = TEXT.partition(HEADER)[2].partition("\n\n")[0]
    found = re.findall(r"^\| `(\w+)` \| ([^|]+) \| (?:`(\w+::\w+)`)? \|$", table, re.MULTILINE)
    assert len(found) == len(table.splitlines())
    return found


def test_every_function_is_in_the_table_and_no_other() -> None:
    """After a change: PYTHONPATH=legged_gym/isaacgym_warp python -m tests.isaacgym_coverage."""
    assert {name: there for name, there, _ in rows()} == methods()


def test_the_tests_that_the_table_names_call_the_function() -> None:
    called = callers()
    assert [(name, test) for name, _, test in rows() if test and test not in called.get(name, [])] == []


def test_what_is_not_there_says_so_by_name() -> None:
    names = set(re.findall(r"`(\w+_\w+)`", TEXT.partition("\nNot there,")[2]))
    assert len(names) > 40
    for name in names:
        with pytest.raises(GymError, match=rf"gym\.{name} ") as caught:
            getattr(gymapi.acquire_gym(), name)
        assert "\n" not in str(caught.value)
