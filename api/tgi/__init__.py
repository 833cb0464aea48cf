"""TGI's own protocol: generation, tokens, health, info, metrics."""
