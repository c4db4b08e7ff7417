"""A number that nothing moves: what all readings leave open together, and when they cannot all be true."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from guestclock.compare.comparison import Unknown


@given(st.integers(-(10**9), 10**9), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1))
def test_readings_of_one_number_always_fit(number: int, sandwiches: list[tuple[int, int]]) -> None:
    unknown = Unknown()
    for below, above in sandwiches:
        assert unknown.fits(number - below, number + above)
    assert unknown.width == min(b for b, _ in sandwiches) + min(a for _, a in sandwiches)


@given(st.integers(-(10**9), 10**9), st.integers(1, 10**6), st.integers(0, 10**6))
def test_a_number_that_moved_farther_than_readings_leave_open_is_seen(number: int, moved: int, width: int) -> None:
    unknown = Unknown()
    assert unknown.fits(number - width, number)
    assert unknown.fits(number, number + width)
    before = str(unknown)
    assert not unknown.fits(number + moved, number + moved + width)
    assert str(unknown) == before
