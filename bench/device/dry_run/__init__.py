"""Runs the real runner on a GPU that is not there, and lists what it would do."""
