"""What the checker knows of an arm64 guest's counters."""
