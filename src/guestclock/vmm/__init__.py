"""What VMMs do: recipes over `guestclock.kvm.api`. Standard library only; runs inside the lab as well."""
