"""From values to findings: pure functions."""
