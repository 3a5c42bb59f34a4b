class ClipgenError(ValueError):
    """What a person can mend: the message names the argument, its value and the remedy."""
