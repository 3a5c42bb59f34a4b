"""The shown frame in words, and where in it a text is found."""

import html

import pytest
from studio_hands import click, named, put

import clipgen
from clipgen.studio.parts import to_jpeg


@pytest.mark.slow
def test_the_shown_frame_in_words_and_where(studio):
    (fold,) = named(studio, "What CLIP reads in this frame")
    fold.value = True
    put(studio, init="perlin")
    click(studio, "Generate")
    run = studio.wait()
    studio.preview.timeline.value = 5
    assert html.escape(str(run.words(5))) in studio.words.words.value and "step 5, as mini" in studio.words.words.value
    shown = studio.preview.children
    assert shown[shown.index(studio.preview.timeline) + 1] is studio.preview.below_timeline, (
        "directly under the timeline"
    )
    assert studio.words.words in studio.preview.below_timeline.children and studio.words.words.layout.display == ""
    assert studio.words.map.layout.display == "none"
    named(studio, "Find")[0].value = "fire"
    named(studio, "Show it")[0].value = True
    found = clipgen.explain(run.journal.frame(5), "fire", run.models.perceptors[0][0])
    assert studio.words.map.layout.display == "" and studio.words.map.value == to_jpeg(found.overlay, 512)
    fold.value, before = False, studio.words.words.value
    studio.preview.timeline.value = 3
    assert studio.words.words.value == before, "closed, nobody looks"
    assert studio.words.words.layout.display == "none", "nor are another frame's words shown"
