"""What the checker knows of an x86 guest's clocks."""
