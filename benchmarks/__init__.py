"""Measurements behind every speed and quality figure of the documents; `scripts/bench` runs them."""
