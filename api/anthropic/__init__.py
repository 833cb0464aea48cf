"""Anthropic's Messages API: a translation of its bodies, answers and events."""
