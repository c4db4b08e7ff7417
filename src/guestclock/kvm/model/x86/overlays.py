"""The overlays of x86 kernels."""

from __future__ import annotations

from guestclock.errors import UserError
from guestclock.kvm.model.overlay import Overlay, plain
from guestclock.kvm.model.x86 import kvmclock, matching, page, suspend_corrected, tsc, updates
from guestclock.kvm.model.x86 import suspend_time as suspend
from guestclock.kvm.model.x86.profile import Profile


def seconds(text: str, what: str) -> int:
    """ "60s", "60 s", "5min", "1h" or plain seconds as a positive number of whole seconds."""
    units = {"s": 1, "min": 60, "h": 3600}
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyz ")
    unit = text[len(digits) :].strip() or "s"
    if not digits.isdigit() or unit not in units or int(digits) == 0:  # concrete: a parameter
        raise UserError(f"{what}: {text!r}, expected a duration such as 60s, 5min or 1h")
    return int(digits) * units[unit]  # concrete: a parameter


def _periodic(profile: Profile, value: str) -> Profile:
    period_s = seconds(value or "60s", "periodic-masterclock")
    return profile.but(
        vcpu_created=updates.with_masterclock_sync(profile.vcpu_created, period_s), masterclock_sync_period_s=period_s
    )


_MATCH_1S = {
    "matched_stable": matching.generation_offset,
    "matched_unstable": matching.value_moved,
}

OVERLAYS: dict[str, Overlay] = {
    overlay.name: overlay
    for overlay in (
        plain("no-matching", "P0: every TSC write stands for itself", tsc_matching=matching.never),
        plain(
            "exact5",
            "P1: the same value within 5 s is in sync (Aug 2010, f38e098ff3a3)",
            tsc_matching=matching.same_value_within_5s,
            matched_stable=matching.last_offset_anchored,
            matched_unstable=matching.offset_moved_by_host_cycles,
        ),
        plain(
            "close5",
            "P2: a value within 5 s of cycles, within 5 s, is in sync (2.6.37, 46543ba45fc4)",
            tsc_matching=matching.close_value_within_5s,
            matched_stable=matching.last_offset_anchored,
            matched_unstable=matching.offset_moved_by_host_cycles,
        ),
        plain(
            "1s",
            "P3: meant as within 1 s of the expected value, with µs taken for ns (5d3cb0f6a8e3)",
            tsc_matching=matching.microseconds_taken_for_nanoseconds,
            matched_stable=matching.last_offset_anchored,
            matched_unstable=matching.value_moved_anchored,
        ),
        plain(
            "sliding",
            "P4: as 1s, and the window moves on with each write (4dd7980b2140)",
            tsc_matching=matching.microseconds_taken_for_nanoseconds,
            matched_stable=matching.last_offset_sliding,
            matched_unstable=matching.value_moved,
        ),
        plain(
            "generations",
            "P5: matched writes join a generation and get its offset (3.4, e26101b116a6)",
            tsc_record=matching.generations,
            **_MATCH_1S,
        ),
        plain(
            "usdiff",
            "P6: within 1 s of the expected value, reckoned in µs (02626b6af5d2)",
            tsc_matching=matching.within_1s_in_microseconds,
            matched_stable=matching.generation_offset,
            matched_unstable=matching.value_moved_by_microseconds,
        ),
        plain(
            "masterclock-toggle",
            "P7: a new snapshot only when the masterclock goes on or off (3.8)",
            masterclock_request=matching.on_toggle,
        ),
        plain(
            "masterclock-always",
            "P8: a new snapshot at every tracked TSC write (3.19, 7f187922ddf6)",
            masterclock_request=matching.always,
        ),
        plain(
            "expected1s",
            "P9: 0, or within 1 s of the expected value in cycles (4.12, bd8fab39cd4f)",
            tsc_matching=matching.expected_within_1s,
            **_MATCH_1S,
        ),
        plain(
            "user-set-tsc",
            "P12: as expected1s, but the first value userspace writes is never corrected (6.7, bf328e22e472)",
            tsc_matching=matching.expected_within_1s_after_first_user_write,
            **_MATCH_1S,
        ),
        plain(
            "newgen-only",
            "P13: a new snapshot when the masterclock toggles or a generation begins (6.8, c52ffadc65e2)",
            masterclock_request=matching.on_toggle_or_new_generation,
        ),
        plain(
            "seed-2023",
            "P13 in the form posted on 16 Oct 2023",
            masterclock_request=matching.as_posted_in_2023,
        ),
        plain("tsc-protected", "P14: KVM cannot move a protected guest's TSC (6.15)", protects_tsc=True),
        Overlay(
            "periodic-masterclock",
            "a new snapshot every masterclock_sync_period (RFC of 2023): =60s",
            _periodic,
            "duration",
        ),
        plain("stop-all-tscs", "2010's idea: all TSCs of a VM can be held and let go together", stop_all_tscs=True),
        plain(
            "exact-c",
            "GET_CLOCK by the guest's scale: our own construction of abdef42276d8, whose text was not at hand",
            guest_kvmclock=kvmclock.kvmclock_c_by_guest_scale,
        ),
        plain(
            "negative-delta-guard",
            "catch-up takes a time before the generation for what it is (d9173f59df3a)",
            generation_tsc=tsc.compute_guest_tsc_signed,
        ),
        plain("suspend-v1", "virtual suspend time injection as posted in April 2021", suspend_time=suspend.SuspendV1),
        plain("suspend-v2", "virtual suspend time injection as posted in August 2021", suspend_time=suspend.SuspendV2),
        plain("suspend-v3", "virtual suspend time injection as posted in October 2021", suspend_time=suspend.SuspendV3),
        plain(
            "suspend-v3-cached",
            "suspend-v3, whose store into guest memory is two steps: the cached address, and the store",
            suspend_time=suspend.SuspendV3Cached,
        ),
        plain(
            "suspend-corrected",
            "our own: every clock of a VM stands still from its last exit before a sleep, and its guest is told",
            suspend_time=suspend_corrected.SuspendCorrected,
        ),
        plain(
            "suspend-gate",
            "our own: after a sleep no vCPU enters before the VMM has acknowledged it",
            suspend_time=suspend_corrected.SuspendGate,
        ),
        plain("catchup-to-now", "catch-up to now, not to the snapshot (92fac63cc739)", catchup=page.to_now),
    )
}


def queued(profile: Profile, _: str) -> Profile:
    """All three fixes queued for 7.4."""
    for name in ("exact-c", "negative-delta-guard", "catchup-to-now"):
        profile = OVERLAYS[name].lay(profile, "")
    return profile


OVERLAYS["queued-7.4"] = Overlay("queued-7.4", "exact-c, negative-delta-guard and catchup-to-now together", queued)
