"""Numerical kernels that run on the accelerator: the flow runtime (`kernels.flow`) and what grows around it.

This package imports nothing, and JAX is loaded by the first name of `bridge_adapter.kernels.flow` that computes, so a worker
that never asks for one stays small.
"""
