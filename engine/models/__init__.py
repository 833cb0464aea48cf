"""The models: config.json as the runtime sees it, families, weights, the decoder that they share."""
