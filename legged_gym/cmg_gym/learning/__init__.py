"""Policies: how they are trained, resumed, read again and exported."""
