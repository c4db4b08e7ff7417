"""Traces as text tables, figures and JSON."""
