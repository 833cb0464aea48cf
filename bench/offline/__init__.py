"""The engine without a server: step times over batch and context, and what they are made of."""
