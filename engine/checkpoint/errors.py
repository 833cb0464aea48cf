"""The one error a user sees when a model cannot be loaded."""

REFUSED = 2  # exit code of a process that has said why it does not serve the model


class ModelError(Exception):
    """A model's files are missing, damaged or of an unknown kind. The message says which file and what to do."""
