import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipgen.errors import ClipgenError
from clipgen.prompts import Prompt, parse, slug, weights_at


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        ("a red apple", [Prompt("a red apple", 1.0)]),
        ("a cat:2 | watermark:-0.5", [Prompt("a cat", 2.0), Prompt("watermark", -0.5)]),
        (" a |b :.5| ", [Prompt("a", 1.0), Prompt("b", 0.5)]),
        (r"time 10\:30", [Prompt("time 10:30", 1.0)]),
        (r"this \| that:1e1", [Prompt("this | that", 10.0)]),
        ("note: a cat", [Prompt("note: a cat", 1.0)]),
        ("a cat:2:0.4", [Prompt("a cat", 2.0, 0.4)]),
        (
            "a cat@0-100 | a tiger:.5 @ 80-",
            [Prompt("a cat", span=(0, 100)), Prompt("a tiger", 0.5, span=(80, math.inf))],
        ),
        (
            "a moon [top]:2@-50|x[0,0,.5,1]",
            [Prompt("a moon", 2.0, span=(0, 50), where="top"), Prompt("x", where="0,0,.5,1")],
        ),
        (r"me\@home \[sic] c\:3", [Prompt("me@home [sic] c:3")]),
        ("a@b - c", [Prompt("a@b - c")]),
        ("ViT-L/14@336px:2", [Prompt("ViT-L/14@336px", 2.0)]),
        ("https://x.org/a.png:3.5", [Prompt("https://x.org/a.png", 3.5, is_image=True)]),
    ],
)
def test_grammar(text, prompts):
    assert parse(text) == prompts


@pytest.mark.parametrize(
    "text", ["", "  ", "|", ":2", "a cat:0", "a cat:-1", "a cat:1e999", "a:nan", "a:inf", "a:1:nan", "a@5-5", "a@9-2"]
)
def test_nothing_to_draw(text):
    with pytest.raises(ClipgenError, match="prompt="):
        parse(text)


@pytest.mark.parametrize("negative", ["fog@9-2", "fog:1:1e999"])
def test_a_mistake_in_what_to_avoid_is_told_of_it(negative):
    with pytest.raises(ClipgenError, match=r"^negative="):
        parse("a cat", negative)


def test_what_is_an_image():
    names = {
        "selfie.jpg": True,
        "a/b c.PNG": True,
        "https://x.org/y": True,
        "a jpg": False,
        ".png": False,
        "a.png b": False,
    }
    assert {name: parse(name)[0].is_image for name in names} == names


def test_spans_fade_into_each_other():
    prompts = parse("a cat@0-100 | a tiger:2@80-200 | art:0.5")
    assert weights_at(prompts, 50) == [1, 0, 0.5] and weights_at(prompts, 150) == [0, 2, 0.5]
    for step in range(80, 100):
        cat, tiger, art = weights_at(prompts, step)
        assert cat + tiger / 2 == pytest.approx(1) and art == 0.5
    assert weights_at(prompts, 80)[0] > 0.9 > 0.1 > weights_at(prompts, 99)[0]
    assert weights_at(prompts, 200) == [0, 0, 0.5]


PIECES = st.lists(
    st.sampled_from([*"|:@[]-\\ .,0123456789", "a cat", "nan", "inf", "1e9", "top", "é", "\n", ".png", "http://"])
)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(st.one_of(st.text(max_size=60), PIECES.map("".join)))
def test_any_text_parses_or_is_refused(text):
    try:
        prompts = parse(text)
    except ClipgenError as error:
        assert "prompt=" in str(error)
        return
    assert prompts and all(p.text and math.isfinite(p.weight) for p in prompts)
    for step in (0, 7, 10**9):
        assert all(map(math.isfinite, weights_at(prompts, step)))


def test_slug():
    assert slug("A red apple!") == "a-red-apple"
    assert slug("../../etc/passwd") == "etc-passwd"
    assert slug("???") == "picture"
    assert len(slug("word " * 100)) <= 60
