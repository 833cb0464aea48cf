"""How far the distributions of two settings are apart, token by token of a text."""
