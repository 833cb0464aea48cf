"""One request that generates, whatever its protocol: admission, limits, its sequences, sending its events."""
