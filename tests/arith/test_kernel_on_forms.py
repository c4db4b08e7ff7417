"""arith.kernel on values that are not ints: the same answers, by the values' own methods and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestclock.arith import kernel


class Boxed:
    """An int that can only do what a form over unknown event times can; `%`, `&`, int(), hash() raise TypeError."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __add__(self, other: Any) -> Boxed:
        return Boxed(self.value + unboxed(other))

    def __sub__(self, other: Any) -> Boxed:
        return Boxed(self.value - unboxed(other))

    def __rsub__(self, other: Any) -> Boxed:
        return Boxed(unboxed(other) - self.value)

    def __mul__(self, factor: int) -> Boxed:
        assert type(factor) is int, "a product of two unknowns"
        return Boxed(self.value * factor)

    def __lshift__(self, bits: int) -> Boxed:
        return Boxed(self.value << bits)

    def __rshift__(self, bits: int) -> Boxed:
        return Boxed(self.value >> bits)

    def __floordiv__(self, divisor: int) -> Boxed:
        return Boxed(self.value // divisor)

    def __neg__(self) -> Boxed:
        return Boxed(-self.value)

    def __lt__(self, other: Any) -> bool:
        return bool(self.value < unboxed(other))

    __radd__, __rmul__ = __add__, __mul__
    __hash__ = None  # type: ignore[assignment]
    __eq__ = None  # type: ignore[assignment]
    __bool__ = None

    def wrap_u64(self) -> Boxed:
        return Boxed(self.value % 2**64)

    def wrap_s64(self) -> Boxed:
        return Boxed((self.value + 2**63) % 2**64 - 2**63)

    def wrap_u32(self) -> Boxed:
        return Boxed(self.value % 2**32)

    def wrap_s32(self) -> Boxed:
        return Boxed((self.value + 2**31) % 2**32 - 2**31)


def unboxed(value: Any) -> Any:
    return value.value if isinstance(value, Boxed) else value


# each takes its times first, as many as told; rates are concrete
OF_TIMES: dict[str, tuple[int, Callable[..., Any]]] = {
    "u64": (1, kernel.u64),
    "s64": (1, kernel.s64),
    "u32": (1, kernel.u32),
    "s32": (1, kernel.s32),
    "mul_u64_u64_shr": (1, lambda t: kernel.mul_u64_u64_shr(t, 2**64 - 59, 17)),
    "mul_s64_u64_shr": (1, lambda t: kernel.mul_s64_u64_shr(t, 2**48 // 3, 48)),
    "div_s64": (1, lambda t: kernel.div_s64(t, 2_596_122)),
    "pvclock_scale_delta down": (1, lambda t: kernel.pvclock_scale_delta(t, 0xC5379CA5, -1)),
    "pvclock_scale_delta up": (1, lambda t: kernel.pvclock_scale_delta(t, 0xA6AAAAAA, 6)),
    "nsec_to_cycles": (1, lambda t: kernel.nsec_to_cycles(t, 0xA626DCE3, 2)),
    "scale_tsc": (1, lambda t: kernel.scale_tsc(t, 0x127D36AF8EF61, 48)),
    "scale_tsc by one": (1, lambda t: kernel.scale_tsc(t, 1 << 32, 32)),
    "nested_tsc_offset": (2, lambda a, b: kernel.nested_tsc_offset(a, b, 0xD5555555, 32)),
    "nested_tsc_offset by one": (2, lambda a, b: kernel.nested_tsc_offset(a, b, 1 << 48, 48)),
    "clocksource_cyc2ns": (1, lambda t: kernel.clocksource_cyc2ns(t, 6462414, 24)),
    "cyclecounter_cyc2ns: ns": (2, lambda t, frac: kernel.cyclecounter_cyc2ns(t, 699050667, 24, frac)[0]),
    "cyclecounter_cyc2ns: frac": (2, lambda t, frac: kernel.cyclecounter_cyc2ns(t, 699050667, 24, frac)[1]),
    "raw_ns": (2, lambda t, base: kernel.raw_ns(t, 6462414, 24, base)),
    "hv_tsc_offset": (2, lambda ns, tsc: kernel.hv_tsc_offset(ns, tsc, 0xFC7024AA3D70A3)),
    "hv_ref_time": (2, lambda tsc, offset: kernel.hv_ref_time(tsc, 0xFC7024AA3D70A3, offset)),
}
EDGES = [0, 1, -1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1]
TIMES = st.one_of(st.sampled_from(EDGES), st.integers(-(2**66), 2**66))


@pytest.mark.parametrize("name", OF_TIMES)
@given(times=st.tuples(TIMES, TIMES))
def test_forms_and_ints_agree(name: str, times: tuple[int, int]) -> None:
    count, function = OF_TIMES[name]
    arguments = times[:count]
    answer = function(*map(Boxed, arguments))
    assert isinstance(answer, Boxed)
    assert answer.value == function(*arguments)


@pytest.mark.parametrize("name", [name for name, (count, _) in OF_TIMES.items() if count == 2])
@given(times=st.tuples(TIMES, TIMES))
def test_a_form_and_an_int_mix(name: str, times: tuple[int, int]) -> None:
    _, function = OF_TIMES[name]
    first, second = times
    expected = function(first, second)
    assert unboxed(function(Boxed(first), second)) == expected
    assert unboxed(function(first, Boxed(second))) == expected


@pytest.mark.parametrize("name", [name for name in OF_TIMES if name != "raw_ns"])
@given(times=st.tuples(TIMES, TIMES))
def test_a_time_out_of_range_is_converted_as_a_c_call_would(name: str, times: tuple[int, int]) -> None:
    count, function = OF_TIMES[name]
    assert function(*times[:count]) == function(*(time % 2**64 for time in times[:count]))


@pytest.mark.parametrize("refused", [lambda t: t % 3, lambda t: t & 1, lambda t: t * t, int, hash, bool, abs])
def test_the_box_refuses_what_a_form_refuses(refused: Callable[[Any], Any]) -> None:
    with pytest.raises((TypeError, AssertionError)):
        refused(Boxed(1))
