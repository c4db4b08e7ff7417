"""Recipes that ask a kernel one thing each."""
