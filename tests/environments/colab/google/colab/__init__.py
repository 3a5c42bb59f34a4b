"""Stands in for google.colab, which only Colab has: what the Studio calls there, and what it was called with."""

from google.colab import files, output

__all__ = ["files", "output"]
