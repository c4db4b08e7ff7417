"""Every order of steps, every delay at once: orders are enumerated, time never is."""
