"""What the proof of the replicated database measures."""

from e2e.database import SETTLE, spells


def test_refusals_are_one_spell_until_none_comes_for_a_while() -> None:
    assert spells([]) == []
    assert spells([7.0]) == [0.0]
    assert spells([130.0, 107.0, 100.0, 110.0, 109.0 + SETTLE, 300.0]) == [30.0, 0.0]
