"""Prompt rows, and the grammar that they are written in."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from studio_hands import click, named

from clipgen.prompts import Prompt, format_prompt, parse, parse_parts
from clipgen.studio.parts import ErrorMessage, PromptRows

TEXTS = st.text("ab1 :|@[]-.", min_size=1).map(str.strip).filter(lambda text: text and "]" not in text)
STOPS = st.one_of(st.just(-float("inf")), st.floats(0, 1))
SPANS = st.sampled_from([(0, float("inf")), (3, 9), (2, float("inf"))])


def rows_of(line):
    return PromptRows(line, Path(), ErrorMessage(), print)


@pytest.mark.slow
@given(TEXTS, st.floats(-9, 9), STOPS, SPANS, st.sampled_from(["", "top"]))
def test_what_is_written_is_what_was_parsed(text, weight, stop, span, where):
    prompt = Prompt(text, float(f"{weight:g}"), float(f"{stop:g}"), span, where)
    assert parse_parts(format_prompt(prompt)) == [prompt]


def test_a_slider_multiplies_the_weights_of_its_row():
    rows = rows_of("a cat")
    rows.children[0].text.value, rows.children[0].weight.value = "a cat:2 @0-9 | a dog:-1:0.5", 0.5
    assert parse(rows.line) == [Prompt("a cat", 1.0, span=(0, 9)), Prompt("a dog", -0.5, 0.5)]


def test_a_line_is_split_into_rows():
    rows = rows_of("a cat:2 | a dog:-0.5 | a bee:7 [top]")
    values = [(row.text.value, row.weight.value) for row in rows.children[:-1]]
    assert values == [("a cat", 2), ("a dog", -0.5), ("a bee [top]:7", 1)]
    assert rows.line == "a cat:2 | a dog:-0.5 | a bee [top]:7"


def test_rows_are_added_numbered_and_removed(studio):
    for text in ("two", "three"):
        click(studio, "Add prompt")
        named(studio, f"Prompt {len(named(studio, 'Remove'))}")[0].value = text
    named(studio, "Weight 3")[0].value = -0.5
    assert studio.controls.rows.line == "a red heart | two | three:-0.5"
    assert [button.tooltip for button in named(studio, "Remove")] == [f"Remove prompt {n}" for n in (1, 2, 3)]
    named(studio, "Remove")[1].click()
    assert studio.controls.rows.line == "a red heart | three:-0.5" and named(studio, "Weight 2")[0].value == -0.5
