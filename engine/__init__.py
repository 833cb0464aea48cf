"""The model runtime: one process per replica. Knows requests and tokens, not HTTP."""
