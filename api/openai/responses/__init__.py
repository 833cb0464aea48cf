"""OpenAI's Responses API: items in, items out, kept for the next turn, in the background if asked for."""
