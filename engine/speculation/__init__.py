"""Guesses how texts go on, for the model to check several tokens in one step."""
