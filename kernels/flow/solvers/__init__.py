"""Solvers: pure functions `init` and `step` over an explicit state; `base` has their contract and the loop on the device."""
