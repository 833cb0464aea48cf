"""A conversation, whatever its protocol: from messages to the prompt, from tokens to thoughts, text and calls."""
