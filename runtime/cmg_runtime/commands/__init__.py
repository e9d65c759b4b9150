"""Velocity commands: drawn, and approached in a ramp."""
