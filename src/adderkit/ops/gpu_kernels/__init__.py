"""Triton kernels of `adder2d`. Importing one imports Triton: `ops.gpu` does so when it is first called."""
