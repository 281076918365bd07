"""How good a prediction is, and why."""
