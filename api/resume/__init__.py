"""Streams that survive their connection and their worker: a layer around the application."""
