import difflib
from collections.abc import Iterable


class ClipgenError(ValueError):
    """An error that the user can fix: the message names the argument, its value and the remedy."""


def suggest(word: str, words: Iterable[str], cutoff: float = 0.6) -> str:
    """Return ``did you mean X? `` with the most similar of some words, or an empty text if none is similar."""
    nearest = difflib.get_close_matches(word, [*words], 1, cutoff)
    return f"did you mean {nearest[0]}? " if nearest else ""
