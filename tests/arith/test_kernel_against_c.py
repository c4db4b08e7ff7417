"""Every function of arith.kernel says what the same arithmetic says in C, on edges and on random values."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guestclock.arith import kernel

Row = tuple[int, ...]
Oracle = Callable[[str, list[Row], int], list[Row]]

EDGES_U32 = [0, 1, 2, 99, 100, 1000, 24_000, 2_596_122, 2**31 - 1, 2**31, 2**31 + 1, 0xC5379CA5, 2**32 - 2, 2**32 - 1]
EDGES_U64 = [
    *(*EDGES_U32, 10**9, 2_596_122_000, 2**32, 2**32 + 1, 2**48 - 1, 2**48, 2**53 + 1, 2**62, 2**62 - 1),
    *(2**63 - 1, 2**63, 2**63 + 1, 2**64 - 10**9, 2**64 - 2, 2**64 - 1),
]
SHIFTS = [-31, -26, -2, -1, 0, 1, 2, 7, 31]


class Domain:
    """Values of one argument: the edges, and how to draw more."""

    def __init__(self, edges: Iterable[int], draw: st.SearchStrategy[int]) -> None:
        self.edges = list(edges)
        self.strategy = st.one_of(st.sampled_from(self.edges), draw)

    def random(self, rng: random.Random) -> int:
        if rng.random() < 0.2:
            return rng.choice(self.edges)
        low, high = min(self.edges), max(self.edges)
        # as many values of 10 bits as of 60
        return rng.randint(low, high) if low < 0 else max(low, rng.getrandbits(rng.randint(1, high.bit_length())))


U64 = Domain(EDGES_U64, st.integers(0, 2**64 - 1))
U32 = Domain(EDGES_U32, st.integers(0, 2**32 - 1))
U32_NOT_0 = Domain(EDGES_U32[1:], st.integers(1, 2**32 - 1))
SHIFT = Domain(SHIFTS, st.integers(-31, 31))
SHIFT_DOWN = Domain([1, 23, 24, 31], st.integers(1, 31))
SHIFT_128 = Domain([0, 1, 32, 48, 63, 64, 127], st.integers(0, 127))
FRAC_BITS = Domain([32, 48], st.sampled_from([32, 48]))
RATIO = Domain([0, 1, 2**32, 2**40 - 1, 2**48, 0xD55555555555, 2**48 // 3, 4 << 48, 2**63, 2**64 - 1], U64.strategy)
SCALE = Domain([1, 1000], st.sampled_from([1, 1000]))
PPM = Domain([0, 1, 250, 10**6, 10**6 + 1, 2**31 - 1_000_001, 2**31, 2**32 - 1], U32.strategy)


def scale_or_127(scaled_hz: int, base_hz: int) -> Row:
    """The oracle's way to say that the loop never ends."""
    try:
        return kernel.kvm_get_time_scale(scaled_hz, base_hz)
    except ValueError:
        return 127, 0


def ratio_or_all_ones(guest_khz: int, host_khz: int, frac_bits: int) -> Row:
    """The oracle's way to say divide error."""
    try:
        return (kernel.tsc_ratio(guest_khz, host_khz, frac_bits),)
    except ValueError:
        return (2**64 - 1,)


def one(function: Callable[..., int]) -> Callable[..., Row]:
    return lambda *arguments: (function(*arguments),)


def hv_scale_and_refusal(mul: int, shift: int) -> Row:
    scale = kernel.hv_tsc_scale(mul, shift)
    return (0, 1) if scale is None else (scale, 0)


# C function, ours in its form, the domains of the arguments, the results: u(nsigned) or s(igned)
CASES: dict[str, tuple[Callable[..., Row], tuple[Domain, ...], str]] = {
    "c_words": (lambda x: (kernel.s64(x), kernel.u32(x), kernel.s32(x)), (U64,), "sus"),
    "c_mul_u64_u64_shr": (one(kernel.mul_u64_u64_shr), (U64, U64, SHIFT_128), "u"),
    "c_mul_s64_u64_shr": (one(kernel.mul_s64_u64_shr), (U64, U64, SHIFT_128), "u"),
    "c_div_s64": (one(kernel.div_s64), (U64, U32_NOT_0), "s"),
    "c_pvclock_scale_delta": (one(kernel.pvclock_scale_delta), (U64, U32, SHIFT), "u"),
    "c_kvm_get_time_scale": (scale_or_127, (U64, U64), "su"),
    "c_tsc_ratio": (ratio_or_all_ones, (U32, U32_NOT_0, FRAC_BITS), "u"),
    "c_scale_tsc": (one(kernel.scale_tsc), (U64, RATIO, FRAC_BITS), "u"),
    "c_nested_tsc_offset": (one(kernel.nested_tsc_offset), (U64, U64, RATIO, FRAC_BITS), "u"),
    "c_nested_tsc_ratio": (one(kernel.nested_tsc_ratio), (RATIO, RATIO, FRAC_BITS), "u"),
    "c_tsc_khz_tolerance": (kernel.tsc_khz_tolerance, (U32, PPM), "uu"),
    "c_pvclock_tsc_khz": (one(kernel.pvclock_tsc_khz), (U32_NOT_0, SHIFT), "u"),
    "c_clocksource_update_freq_scale": (kernel.clocksource_update_freq_scale, (U32_NOT_0, SCALE), "uu"),
    "c_clocksource_cyc2ns": (one(kernel.clocksource_cyc2ns), (U64, U32, SHIFT_DOWN), "u"),
    "c_cyclecounter_cyc2ns": (kernel.cyclecounter_cyc2ns, (U64, U32, SHIFT_DOWN, U64), "uu"),
    "c_raw_ns": (one(lambda *a: kernel.u64(kernel.raw_ns(*a))), (U64, U32, SHIFT_DOWN, U64), "u"),
    "c_hv_tsc_scale": (hv_scale_and_refusal, (U32, SHIFT), "uu"),
    "c_hv_tsc_offset": (one(kernel.hv_tsc_offset), (U64, U64, U64), "s"),
    "c_hv_ref_time": (one(kernel.hv_ref_time), (U64, U64, U64), "u"),
}


def signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


def disagreements(oracle: Oracle, name: str, ours: Callable[..., Row], rows: list[Row], results: str) -> list[str]:
    """The calls for which ours is not, as an integer and not just modulo 2^64, what C computes."""
    found = []
    words = [tuple(value % 2**64 for value in row) for row in rows]
    for row, answer in zip(rows, oracle(name, words, len(results)), strict=True):
        in_c = tuple(signed(word) if kind == "s" else word for kind, word in zip(results, answer, strict=True))
        if ours(*row) != in_c:
            found.append(f"{name}{row}: {ours(*row)}, in C {in_c}")
    return found


def edge_rows(domains: tuple[Domain, ...]) -> list[Row]:
    """All combinations of edges, thinned to about 20 000 rows where there are too many."""
    combinations = list(itertools.product(*(domain.edges for domain in domains)))
    return combinations[:: 1 + len(combinations) // 20_000]


@pytest.mark.parametrize("name", CASES)
def test_edges_agree_with_c(name: str, oracle: Oracle) -> None:
    ours, domains, results = CASES[name]
    assert disagreements(oracle, name, ours, edge_rows(domains), results) == []


@pytest.mark.parametrize("name", CASES)
def test_random_values_of_every_size_agree_with_c(name: str, oracle: Oracle) -> None:
    ours, domains, results = CASES[name]
    rng = random.Random(f"guestclock {name}")
    rows = [tuple(domain.random(rng) for domain in domains) for _ in range(5000)]
    assert disagreements(oracle, name, ours, rows, results) == []


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_values_hypothesis_thinks_of_agree_with_c(name: str, oracle: Oracle, data: st.DataObject) -> None:
    ours, domains, results = CASES[name]
    rows = data.draw(st.lists(st.tuples(*(domain.strategy for domain in domains)), min_size=1, max_size=30))
    assert disagreements(oracle, name, ours, rows, results) == []


def test_every_public_function_has_an_oracle() -> None:
    by_another_name = {"u64", "s64", "u32", "s32", "nsec_to_cycles", "clocks_calc_mult_shift", "mul_u64_u32_div"}
    functions = {name for name, value in vars(kernel).items() if getattr(value, "__module__", "") == kernel.__name__}
    assert functions - {"T", "Time"} - by_another_name == {name.removeprefix("c_") for name in CASES} - {"words"}


def floor_division(dividend: int, divisor: int) -> int:
    return kernel.s64(dividend) // divisor


def no_left_wrap(delta: int, mul: int, shift: int) -> int:
    return (delta << shift if shift >= 0 else delta >> -shift) * mul >> 32


def rounded_ratio(guest_khz: int, host_khz: int, frac_bits: int) -> int:
    return ((guest_khz << frac_bits) + host_khz // 2) // host_khz


def arithmetic_shift(a: int, b: int, shift: int) -> int:
    return kernel.s64(a) * b >> shift


def no_halving(freq: int, scale: int) -> Row:
    """The clocksource before mult is halved to leave room for adjustment."""
    room = 32 - (600 * scale * freq >> 32).bit_length()
    candidates = ((((10**9 // scale << shift) + freq // 2) // freq, shift) for shift in range(32, 0, -1))
    return next((mult, shift) for mult, shift in candidates if mult >> room == 0)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("c_div_s64", one(floor_division)),
        ("c_pvclock_scale_delta", one(no_left_wrap)),
        ("c_tsc_ratio", one(rounded_ratio)),
        ("c_mul_s64_u64_shr", one(arithmetic_shift)),
        ("c_clocksource_update_freq_scale", no_halving),
    ],
)
def test_the_edges_tell_wrong_arithmetic_from_right(name: str, wrong: Callable[..., Row], oracle: Oracle) -> None:
    _, domains, results = CASES[name]
    assert disagreements(oracle, name, wrong, edge_rows(domains), results) != []


def test_time_scale_refuses_exactly_where_the_kernel_would_loop_for_ever(oracle: Oracle) -> None:
    endless: list[Row] = [(10**9, 0), (0, 10**9), (2**63, 10**9), (0, 0), (2**64 - 1, 0)]
    ending: list[Row] = [(2**63 + 1, 10**9), (2**63 - 1, 1), (1, 2**64 - 1), (1, 1), (2**64 - 1, 1)]
    assert [shift for shift, _ in oracle("c_kvm_get_time_scale", endless + ending, 2)].count(127) == len(endless)
    for scaled_hz, base_hz in endless:
        with pytest.raises(ValueError, match="never returns in the kernel"):
            kernel.kvm_get_time_scale(scaled_hz, base_hz)
    for scaled_hz, base_hz in ending:
        kernel.kvm_get_time_scale(scaled_hz, base_hz)
