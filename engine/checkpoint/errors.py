"""The one error a user sees when a model cannot be loaded."""


class ModelError(Exception):
    """A model's files are missing, damaged or of an unknown kind. The message says which file and what to do."""
