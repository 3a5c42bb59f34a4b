"""Where CLIP and a judge disagree: CLIP's score of the picture rises, the judge's falls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

MIN_FALL = 0.05  # of the judge's whole range


def find_disagreements(rows: Sequence[Mapping[str, float]]) -> list[tuple[int, int]]:
    """Return the first and last frames, as indices, of each stretch in which "clip" rises and "judge" falls.

    Scores tremble from frame to frame, CLIP's because its cutouts change. So the mean of an eighth of the film is
    compared with that of the eighth before, and a stretch has two frames at least.

    Args:
        rows: The scores of each frame, as in ``Journal.scores``.

    Returns:
        No stretches without a judge, or for fewer than eight frames.
    """
    scores = [(row.get("clip", math.nan), row.get("judge", math.nan)) for row in rows]
    if len(rows) < 8 or not all(math.isfinite(clip) and math.isfinite(judge) for clip, judge in scores):
        return []
    clip, judge = zip(*scores)
    count, min_fall = max(2, len(rows) // 8), MIN_FALL * (max(judge) - min(judge))

    def rise(values: Sequence[float], at: int) -> float:
        before, after = values[max(0, at - count) : at], values[at : at + count]
        return sum(after) / len(after) - sum(before) / len(before)

    frames = [i for i in range(2, len(rows) - 1) if rise(clip, i) > 0 and rise(judge, i) < -min_fall]
    first = [i for i in frames if i - 1 not in frames]
    last = [i for i in frames if i + 1 not in frames]
    return [(a, b) for a, b in zip(first, last) if a < b]
