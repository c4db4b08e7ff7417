"""The model held against real kernels: random programs, run again on the model at the real run's own instants."""
