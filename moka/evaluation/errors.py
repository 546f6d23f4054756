"""The error that a person running an evaluation can mend."""


class EvaluationError(ValueError):
    """An evaluation that cannot be run as asked; the message names the value, the place and the remedy."""
