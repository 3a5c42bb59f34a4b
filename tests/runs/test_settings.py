"""Settings: declared once, and listed where people look for them."""

from dataclasses import fields

import pytest

import clipgen
from clipgen.runs.settings import Settings, build


@pytest.mark.parametrize("name", ["Run", "generate", "stream"])
def test_help_lists_every_setting(name):
    text = getattr(clipgen, name).__doc__
    lines = {
        line.split(" (")[0].strip("* "): line for line in text.splitlines() if line[:5].strip() and line[:4] == " " * 4
    }
    words = " ".join(text.split())
    for field in fields(Settings):
        if field.name != "prompt":
            assert repr(field.default) in lines[field.name] and field.metadata["help"] in words
            assert (f"{field.name}*" in lines[field.name]) == field.metadata["live"]
    assert "1 to 1,000,000): optimisation steps" in text


def test_prompts_are_parsed_again_only_when_they_change():
    settings = build("a cat | a dog:-0.5", {"lr": "0.2@0-5, 0.1@5-", "init": "random"})
    assert settings.at(7).lr == 0.1 and settings.at(7).prompts is settings.prompts is settings.updated(tv=1.0).prompts
    assert settings.updated(prompt="a bird").prompts[0].text == "a bird"
    assert settings.updated(negative="a fish").prompts[-1].weight == -0.5
