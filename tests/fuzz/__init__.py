"""Damaged files: each format's readers give a value or one of our errors, for small valid files with a few bytes or fields changed.

The suite tries 200 of them a format, always the same; `make fuzz` tries 10,000, others each time.
"""
