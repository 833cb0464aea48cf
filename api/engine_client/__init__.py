"""The engine as an API worker sees it: the socket, the sequences on it, its health, what it died of."""
