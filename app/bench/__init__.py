"""Measurements: what acceptors keep on the loaded pair, and what an open page costs."""
