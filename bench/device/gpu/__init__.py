"""Checks and measures the kernels on a GPU. Imports nothing but the kernels, torch, triton and numpy."""
