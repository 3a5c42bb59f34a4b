"""Frames to files: films, pictures and pages, by the suffix of the name."""

from clipgen.export.film import export, settings_of

__all__ = ["export", "settings_of"]
