"""clipgen: CLIP-guided image generation for notebooks."""

from importlib import import_module
from typing import TYPE_CHECKING

from clipgen import fast

__version__ = "0.4.0"

fast.set_environment()

_PUBLIC = {
    "ClipgenError": "clipgen.errors",
    "Frame": "clipgen.runs.frames",
    "Run": "clipgen.runs.run",
    "Settings": "clipgen.runs.settings",
    "Studio": "clipgen.studio",
    "Study": "clipgen.studies.study",
    "batch": "clipgen.studies.films",
    "best": "clipgen.studies.films",
    "contact_sheet": "clipgen.images.sheets",
    "dalle": "clipgen.priors",
    "describe": "clipgen.inspect.describe",
    "explain": "clipgen.inspect.explain",
    "finish": "clipgen.runs.finish",
    "generate": "clipgen.runs.finish",
    "load_generator": "clipgen.generators.catalogue",
    "load_perceptor": "clipgen.clip.catalogue",
    "rank": "clipgen.clip.catalogue",
    "restyle": "clipgen.studies.films",
    "stream": "clipgen.runs.run",
    "strip": "clipgen.images.sheets",
    "study": "clipgen.studies.study",
}
__all__ = sorted(_PUBLIC)

if TYPE_CHECKING:
    from clipgen.clip.catalogue import load_perceptor, rank
    from clipgen.errors import ClipgenError
    from clipgen.generators.catalogue import load_generator
    from clipgen.images.sheets import contact_sheet, strip
    from clipgen.inspect.describe import describe
    from clipgen.inspect.explain import explain
    from clipgen.priors import dalle
    from clipgen.runs.finish import finish, generate
    from clipgen.runs.frames import Frame
    from clipgen.runs.run import Run, stream
    from clipgen.runs.settings import Settings
    from clipgen.studies.films import batch, best, restyle
    from clipgen.studies.study import Study, study
    from clipgen.studio import Studio


def __getattr__(name: str):
    # torch is loaded when it is first needed: ``import clipgen`` stays under 0.3 s.
    if name not in _PUBLIC:
        raise AttributeError(f"module 'clipgen' has no attribute {name!r}")
    with fast.paused_gc():
        return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
