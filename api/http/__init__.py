"""HTTP on top of ASGI: connection, bodies, errors, events, routing. Knows no model."""
