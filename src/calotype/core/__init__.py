"""Schedules, denoisers, samplers, guidance, path fusion, events and value types. Imports torch and nothing above it."""
