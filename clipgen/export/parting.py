"""Where a guide and a judge part: the first likes a picture more and more, the second less and less."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

LEAST = 0.05  # of all that the judge ever moved: what counts as a fall


def parted(rows: Sequence[Mapping[str, float]]) -> list[tuple[int, int]]:
    """The stretches of a film, as the indices of their first and last frames, in which "clip" rises and "judge" falls.

    ``rows``: as ``Journal.scores``. Both scores tremble from frame to frame, CLIP's because it is shown other views
    every time: what counts is the mean of an eighth of the film against that of the eighth before, at two frames in a
    row at least. There are none without a judge, or in fewer than eight frames.
    """
    scores = [(row.get("clip", math.nan), row.get("judge", math.nan)) for row in rows]
    if len(rows) < 8 or not all(math.isfinite(clip) and math.isfinite(judge) for clip, judge in scores):
        return []
    guide, judge = zip(*scores)
    few, least = max(2, len(rows) // 8), LEAST * (max(judge) - min(judge))

    def rise(of: Sequence[float], at: int) -> float:
        before, after = of[max(0, at - few) : at], of[at : at + few]
        return sum(after) / len(after) - sum(before) / len(before)

    apart = [i for i in range(2, len(rows) - 1) if rise(guide, i) > 0 and rise(judge, i) < -least]
    begins, ends = ([i for i in apart if i + side not in apart] for side in (-1, 1))
    return [(first, last) for first, last in zip(begins, ends) if first < last]
