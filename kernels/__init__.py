"""Numerical kernels that run on the accelerator: the flow runtime (`kernels.flow`) and what grows around it.

This package imports nothing: JAX is loaded when `bridge_adapter.kernels.flow` is, so a worker that never asks for it
stays small.
"""
