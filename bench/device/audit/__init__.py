"""Compiles every kernel for every architecture, without a GPU."""
