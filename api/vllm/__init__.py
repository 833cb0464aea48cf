"""vLLM's routes beside generation: tokens of a text or a conversation, text of tokens, what the tokenizer is."""
