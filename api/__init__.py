"""The HTTP server. Knows requests and text; never imports torch."""
