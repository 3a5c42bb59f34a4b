r"""Words mean what they say: colons in prompts, long prompts, escapes on their way to a terminal."""

import warnings

import pytest

import clipgen
from clipgen.cli import main
from clipgen.clip.catalogue import embed, load_perceptor
from clipgen.errors import ClipgenError
from clipgen.prompts import parse

SMALL = {"generator": "pixels", "init": "random", "size": (32, 32), "steps": 1, "cutouts": 2}


@pytest.mark.parametrize(
    "text",
    [
        "a cat:two",
        "a cat:1:2:3:4",
        "a cat:1:2:3",
        "a cat:0,5",
        "a cat:2x",
        "a cat :two",
        "a dog | a cat:half:0.4",
        "a cat:two@0-50",
        "a cat:two [top]",
        "(a cat:1.2)",
        "a cat:1/2",
        "a cat:50%",
    ],
)
def test_what_is_no_weight_is_refused(text, tmp_path):
    with pytest.raises(ClipgenError, match=r"prompt=.*is not a weight.*\\:"):
        clipgen.Run(text, folder=tmp_path, **SMALL)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (r"a cat\:two", "a cat:two"),
        (r"std\:\:vector", "std::vector"),
        ("note: a cat", "note: a cat"),
        ("Star Wars:Episode IV", "Star Wars:Episode IV"),
        ("a smile :)", "a smile :)"),
        (":smile:", ":smile:"),
        ("a sign, https://x.org/a", "a sign, https://x.org/a"),
        (r"at 10\:30", "at 10:30"),
        (r"Blade Runner\: 2049", "Blade Runner: 2049"),
    ],
)
def test_plain_colons(text, words):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [(prompt.text, prompt.weight) for prompt in parse(text)] == [(words, 1.0)]


TITLES = "Blade Runner: 2049", "Blade Runner:2049", "at 10:30", "--ar 16:9", "16:9", "10:30:15", "John 3:16", "No: 6"


@pytest.mark.parametrize("text", TITLES)
def test_a_title_is_drawn_as_words_with_one_note(text, tmp_path):
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        run = clipgen.generate(text, folder=tmp_path, progress=False, **SMALL)
    assert [(prompt.text, prompt.weight) for prompt in run.prompts] == [(text, 1.0)]
    (note,) = [str(note.message) for note in notes if "drawn as words" in str(note.message)]
    assert repr(text) in note and r'"\:' in note
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clipgen.Run.resume(run.journal.folder, like=run)  # nobody has written it anew


@pytest.mark.parametrize(
    ("text", "words", "weight"),
    [
        ("area 51 :2", "area 51", 2),
        ("the year :2049", "the year", 2049),
        ("a cat2:2", "a cat2", 2),
        ("a cat:100", "a cat", 100),
        ("a cat@0-50:2", "a cat", 2),
        ("a cat @ 0 - 50:2", "a cat", 2),
        ("a moon [top]: 2", "a moon", 2),
        ("photo.png: 2", "photo.png", 2),
        ("photo.png:200", "photo.png", 200),
        ("https://x.org/a.png:3.5", "https://x.org/a.png", 3.5),
        ("a cat:2.5", "a cat", 2.5),
        ("a cat:1e1", "a cat", 10),
    ],
)
def test_weights_are_weights(text, words, weight):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [(prompt.text, prompt.weight) for prompt in parse(text)] == [(words, weight)]


def test_a_change_has_its_note_and_the_command_shows_it_once(tmp_path, monkeypatch):
    run = clipgen.Run("a cat", folder=tmp_path, **SMALL)
    with pytest.warns(UserWarning, match=r"'at 10:30' and '16:9' are drawn as words"):
        run.change(prompt="at 10:30 | 16:9 | a dog:0.5")
    monkeypatch.chdir(tmp_path)
    words = "--generator pixels --init random --size 32 --steps 2 --cutouts 2 --quiet -o a.png"
    with pytest.warns(UserWarning, match="drawn as words") as notes:
        assert main(["Blade Runner: 2049", *words.split()]) == 0
    assert len(notes) == 1


def test_what_is_dropped_of_a_long_prompt_is_found_at_once(monkeypatch):
    perceptor, asked = load_perceptor("mini"), []
    whole = type(perceptor).fits
    monkeypatch.setattr(type(perceptor), "fits", lambda self, text: asked.append(text) or whole(self, text))
    words = [f"word{i}" for i in range(800)]
    with pytest.warns(UserWarning, match="too long for mini; this is dropped") as notes:
        embed(perceptor, [" ".join(words)])
    dropped = str(notes[0].message).split("dropped: ")[1].strip("'").split()
    kept = words[: -len(dropped)]
    assert kept + dropped == words
    assert whole(perceptor, " ".join(kept)) and not whole(perceptor, " ".join(words[: len(kept) + 1]))
    assert len(asked) < 20  # of which each reads the prompt
    with pytest.warns(UserWarning, match="dropped: '喵+'") as notes:
        embed(perceptor, ["喵" * 60])
    kept = 60 - str(notes[0].message).count("喵")
    assert kept and whole(perceptor, "喵" * kept) and not whole(perceptor, "喵" * (kept + 1))


@pytest.mark.parametrize(
    "text",
    [
        "a cat@0-1000000000",
        "a cat@10–20",
        "a cat@0.5-1",
        "a cat@10",
        "a cat@0-10@20-30",
        "a cat [top] [left]",
        "a cat [top",
        "a cat []",
        "a cat::2 dog::1",
        "(a cat:1.3), dog",
    ],
    ids=ascii,
)
def test_what_is_no_span_no_region_and_no_weight_is_refused(text, tmp_path):
    with pytest.raises(ClipgenError, match=r"prompt=.* is not a (span|region|weight).*; write .*; a plain"):
        clipgen.Run(text, folder=tmp_path, **SMALL)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text", [r"a cat\@10", r"a cat \[top", "me@home", "icon@2x", r"a cat\::2", "(a red cat), dog", "a 2@3 knot"]
)
def test_plain_marks_are_words(text):
    assert parse(text)[0].span[0] == 0 and not parse(text)[0].where
