"""clipgen: CLIP-guided image generation for notebooks."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_PUBLIC = {
    "ClipgenError": "clipgen.errors",
    "Frame": "clipgen.run",
    "Run": "clipgen.run",
    "Settings": "clipgen.settings",
    "Studio": "clipgen.studio",
    "batch": "clipgen.films",
    "best": "clipgen.films",
    "contact_sheet": "clipgen.export",
    "dalle": "clipgen.sampling",
    "finish": "clipgen.run",
    "generate": "clipgen.run",
    "load_generator": "clipgen.generators",
    "load_perceptor": "clipgen.perceptors",
    "rank": "clipgen.perceptors",
    "restyle": "clipgen.films",
    "stream": "clipgen.run",
    "strip": "clipgen.export",
}
__all__ = sorted(_PUBLIC)

if TYPE_CHECKING:
    from clipgen.errors import ClipgenError
    from clipgen.export import contact_sheet, strip
    from clipgen.films import batch, best, restyle
    from clipgen.generators import load_generator
    from clipgen.perceptors import load_perceptor, rank
    from clipgen.run import Frame, Run, finish, generate, stream
    from clipgen.sampling import dalle
    from clipgen.settings import Settings
    from clipgen.studio import Studio


def __getattr__(name: str):
    # torch is loaded when it is first needed: ``import clipgen`` stays under 0.3 s.
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'clipgen' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
