import pytest

from clipgen.errors import ClipgenError
from clipgen.prompts import Prompt, parse, slug


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        ("a red apple", [Prompt("a red apple", 1.0)]),
        ("a cat:2 | watermark:-0.5", [Prompt("a cat", 2.0), Prompt("watermark", -0.5)]),
        (" a |b :.5| ", [Prompt("a", 1.0), Prompt("b", 0.5)]),
        (r"time 10\:30", [Prompt("time 10:30", 1.0)]),
        (r"this \| that:1e1", [Prompt("this | that", 10.0)]),
        ("note: a cat", [Prompt("note: a cat", 1.0)]),
    ],
)
def test_grammar(text, prompts):
    assert parse(text) == prompts


@pytest.mark.parametrize("text", ["", "  ", "|", ":2", "a cat:0", "a cat:-1", "a cat:1e999"])
def test_nothing_to_draw(text):
    with pytest.raises(ClipgenError, match="prompt="):
        parse(text)


def test_slug():
    assert slug("A red apple!") == "a-red-apple"
    assert slug("../../etc/passwd") == "etc-passwd"
    assert slug("???") == "picture"
    assert len(slug("word " * 100)) <= 60
