"""Kernels for GPUs in Triton, each with a way in plain torch, behind one choice."""
