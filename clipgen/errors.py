import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from os import PathLike


class ClipgenError(ValueError):
    """An error that the user can fix: the message names the argument, its value and the remedy."""


def suggest(word: str, words: Iterable[str], cutoff: float = 0.6) -> str:
    """Return ``did you mean X? `` with the most similar of some words, or an empty text if none is similar."""
    nearest = difflib.get_close_matches(word, [*words], 1, cutoff)
    return f"did you mean {nearest[0]}? " if nearest else ""


@contextmanager
def explain_os_errors(argument: str, path: str | PathLike[str], remedy: str) -> Iterator[None]:
    """Raise ClipgenError, with the argument that names a file or a folder, for an OSError in writing it."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise ClipgenError(f"{argument}={str(path)!r}: cannot be written ({reason}); {remedy}") from error
