"""Compiled operations for the CPU; the fronts in `cairn.ops` choose them where they can serve."""
