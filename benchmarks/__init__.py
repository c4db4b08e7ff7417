"""Speed as ratios, both sides measured in turn within one run: `python -m benchmarks`."""
