"""A short attack on a run's folder."""

import os

import pytest

from benchmarks.faults.another_user import WRITES, attack


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_changes_no_file_of_the_users_and_holds_nothing_up() -> None:
    outcomes = attack(40)
    assert outcomes.keys() == WRITES.keys()
    assert any(outcome != "written" for counter in outcomes.values() for outcome in counter)
