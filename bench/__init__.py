"""Latency and throughput harness, peer comparison, GPU check."""
