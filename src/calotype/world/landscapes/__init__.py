"""Landscapes with a moving sky and moving water, whose motion fields are known."""
