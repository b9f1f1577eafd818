"""Encoders on the CPU: packed weights, program, tables of a pass."""
