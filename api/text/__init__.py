"""Text: tokens in and out, stop strings, chat templates, grammars."""
