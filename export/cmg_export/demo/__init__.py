"""A rendered gait."""
