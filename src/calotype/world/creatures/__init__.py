"""The world of creatures: one subject in a pose."""
