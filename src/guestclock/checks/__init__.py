"""Recipes, scenarios and kernels put to the explorer: worlds, questions, verdicts, stories."""
