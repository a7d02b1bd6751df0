"""Shapes: where they are when, and that they end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests import shapes


@given(st.sampled_from(sorted(shapes.SHAPES)), st.floats(0, 1, exclude_max=True), st.floats(1, 10_000))
def test_a_stretched_shape_is_where_the_shape_itself_is(name: str, place: float, length: float) -> None:
    own = shapes.share(name, place * shapes.seconds(name))
    near = {shapes.share(name, (place + d) * shapes.seconds(name)) for d in (-1e-9, 1e-9)}
    assert shapes.share(name, place * length, length) in {own, *near}


@pytest.mark.parametrize("name", sorted(shapes.SHAPES))
def test_every_shape_reaches_into_its_load_and_ends(name: str) -> None:
    assert max(stage.share for stage in shapes.SHAPES[name]) <= 1
    assert shapes.share(name, 0) is not None
    assert shapes.share(name, shapes.seconds(name)) is None


def test_steps_go_up_to_the_peak() -> None:
    assert [shapes.share("step", after) for after in (0, 30, 60, 90, 120, 150)] == [0.2, 0.4, 0.6, 0.8, 1.0, None]
