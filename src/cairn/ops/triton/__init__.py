"""Triton kernels for NVIDIA GPUs; importing a module here needs triton installed.

Every kernel is deterministic: no result depends on the order in which programs run, and launch
settings depend on shapes alone.
"""
