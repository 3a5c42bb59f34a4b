"""Where the guide's score rises and the judge's falls."""

import math
import random

import pytest

from clipgen.export import export
from clipgen.export.html import find_disagreements
from clipgen.studio.preview import draw_curve


def film(judge, count=40, noise=0.01):
    """A guide that likes a picture more and more, and a judge that says ``judge(i)``; both tremble."""
    rng = random.Random(0)
    return [
        {"step": 3.0 * i, "clip": 0.01 * i + noise * rng.random(), "judge": judge(i) + noise * rng.random()}
        for i in range(count)
    ]


def up_and_down(top):
    return lambda i: 0.02 * (i if i < top else 2 * top - i)


@pytest.mark.parametrize("top", [12, 20, 28])
def test_it_begins_where_the_judge_turns(top):
    ((first, last),) = find_disagreements(film(up_and_down(top)))
    assert abs(first - top) <= 3 and last >= 37


@pytest.mark.parametrize(
    "rows",
    [
        [],
        film(up_and_down(4), 7),
        film(lambda i: 0.01 * i),
        film(lambda i: 0.3 + 0.01 * min(i, 9)),
        [row | {"clip": 1 - row["clip"]} for row in film(up_and_down(20))],
        [{"step": row["step"], "clip": row["clip"]} for row in film(up_and_down(20))],
        [row | {"judge": math.nan} for row in film(up_and_down(20))],
    ],
    ids=["none", "few frames", "both rise", "the judge rests", "both fall", "no judge", "no numbers"],
)
def test_they_agree(rows):
    assert find_disagreements(rows) == []


def test_the_page_and_the_studio_shade_it(tmp_path):
    from PIL import Image

    frames, rows = [Image.new("RGB", (32, 32))] * 40, film(up_and_down(20))
    page = export(frames, tmp_path / "a.html", scores=rows).read_text()
    shown = draw_curve(rows, 7)
    for text in (page, shown):
        assert text.count("<polyline") == 2 and text.count("<rect") == 1 and "shaded: CLIP's score rises" in text
    assert 'class="judge"' in page and "judge 0.1" in page and "CLIP · step 21 · CLIP score" in shown
    agreed = film(lambda i: 0.01 * i)
    for text in (export(frames, tmp_path / "b.html", scores=agreed).read_text(), draw_curve(agreed, 7)):
        assert text.count("<polyline") == 2 and "<rect" not in text and "shaded" not in text and "dashed" in text
    alone = [{"step": row["step"], "clip": row["clip"]} for row in rows]
    for text in (export(frames, tmp_path / "c.html", scores=alone).read_text(), draw_curve(alone, 7)):
        assert text.count("<polyline") == 1 and "dashed" not in text
