"""The embedded models: entries of the same registries as the published ones, that nobody else imports."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
