"""The page, read as HTML by another parser than the browser's; tests/browser looks at it."""

import base64
import io
import json
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

import clipgen
from clipgen.export import export, settings_of
from clipgen.export.html import judge_label
from clipgen.studio.preview import format_scores

HOSTILE = (
    "</script><script>document.title = 1</script> <!-- <script> \" ' <b>&amp;</b> $notes ${x} \\ \ud800 \u2028 é🐈"
)


class Page(HTMLParser):
    """The elements of a page, in order, each a dict with its attributes and its text; ``tag`` is its name."""

    def __init__(self, file):
        super().__init__()
        self.elements = []
        self.feed(file.read_text("utf-8"))
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append({"tag": tag, "text": ""} | dict(attrs))

    def handle_endtag(self, tag):
        self.elements.append({"tag": f"/{tag}", "text": ""})

    def handle_data(self, data):
        if self.elements:
            self.elements[-1]["text"] += data

    def all(self, tag):
        return [element for element in self.elements if element["tag"] == tag]

    def at(self, name):
        (element,) = [element for element in self.elements if element.get("id") == name]
        return element

    @property
    def order(self):
        return json.loads(self.at("film")["data-order"])

    @property
    def pictures(self):
        """Every frame as it is in the page."""
        for image in self.all("img"):
            kind, _, data = image["src"].partition(",")
            assert kind == "data:image/webp;base64"
            yield Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def greys(count, side=64):
    return [Image.new("RGB", (side, side), (6 * i, 6 * i, 6 * i)) for i in range(count)]


def noise(count=20):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(count)]


def rows(count):
    return [{"step": 3.0 * i + 1, "clip": 0.01 * i, "loss": 1 / (i + 1)} for i in range(count)]


def test_frames_scores_and_settings_are_in_the_page(tmp_path):
    settings = {"prompt": "a cat", "size": [64, 48], "mask": "", "changes": [{"step": 3, "lr": 0.1}, {"step": 4}]}
    page = Page(export(greys(3), tmp_path / "a.html", settings, fps=10, hold=1, scores=rows(3)))
    assert page.elements[0]["tag"] == "html" and page.all("h1")[0]["text"] == page.all("title")[0]["text"] == "a cat"
    for i, (image, picture) in enumerate(zip(page.all("img"), page.pictures)):
        assert picture.size == (int(image["width"]), int(image["height"])) == (256, 256)
        assert abs(picture.getpixel((99, 99))[0] - 6 * i) <= 1 and ("hidden" in image) == (i < 2)
    assert [image["alt"] for image in page.all("img")] == [
        "CLIP · step 1 · CLIP score 0.000 · loss 1.000",
        "CLIP · step 4 · CLIP score 0.010 · loss 0.500",
        "CLIP · step 7 · CLIP score 0.020 · loss 0.333",
    ]
    assert page.order == [[0, 100], [1, 100], [2, 1000]] and page.at("film")["data-loop"] == "true"
    assert page.at("time")["max"] == page.at("time")["value"] == "3"
    table = {name["text"]: value["text"] for name, value in zip(page.all("th"), page.all("td"))}
    assert table == {"prompt": "a cat", "size": "64, 48", "mask": "–", "changes": "step 3, lr 0.1"}
    assert page.all("br")[0]["text"] == "step 4", "one change a line"


def test_the_curve_goes_through_the_frames(tmp_path):
    scores = [0.1, 0.5, 0.3, 0.2]
    file = export(greys(4), tmp_path / "a.html", scores=[{"step": 10 * i, "clip": s} for i, s in enumerate(scores)])
    page = Page(file)
    spots = [(float(image["data-x"]), float(image["data-y"])) for image in page.all("img")]
    line = [tuple(map(float, spot.split(","))) for spot in page.all("polyline")[0]["points"].split()]
    assert line == spots and {round(b[0] - a[0]) for a, b in pairwise(spots)} == {193}
    assert sorted(range(4), key=lambda i: -spots[i][1]) == sorted(range(4), key=scores.__getitem__), "higher is better"
    assert "0.100 to 0.500, from step 0 to step 30" in page.at("curve")["aria-label"]


@pytest.mark.parametrize(
    "scores",
    [[], [{"step": 1, "clip": 0.5}], [{"step": 1, "loss": 2.0}] * 3, [{"clip": float("nan")}] * 3],
    ids=["none", "of one frame", "no CLIP", "not finite"],
)
def test_no_curve_of_fewer_than_two_scores(scores, tmp_path):
    page = Page(export(greys(3), tmp_path / "a.html", scores=scores))
    assert not page.all("svg") and not page.all("table") and len(page.all("img")) == 3
    assert page.all("h1")[0]["text"] == "A film by clipgen"


def test_frames_without_a_row_have_no_score(tmp_path):
    first, second, third = Page(export(greys(3), tmp_path / "a.html", scores=rows(2))).all("img")
    assert first["data-x"] and second["data-x"] and "data-x" not in third and third["alt"] == "frame 3"


@pytest.mark.parametrize(("judge", "word"), [("pickscore", "preference score"), ("evaluator", "judge")])
def test_a_score_of_preference_is_called_one(judge, word, tmp_path):
    scores = [row | {"judge": 20 + i} for i, row in enumerate(rows(4))]
    file = export(greys(4), tmp_path / "a.html", {"prompt": "a cat", "judge": judge}, scores=scores)
    page = file.read_text()
    assert f"CLIP · step 10 · CLIP score 0.030 · loss 0.250 · {word} 23.000" in page
    assert f"dashed: the {word}, 20.000 to 23.000" in page
    assert format_scores(scores[-1], judge_label(judge)) == f"CLIP score 0.030 · {word} 23.000"


def test_a_boomerang_has_each_frame_once(tmp_path):
    page = Page(export(greys(4), tmp_path / "a.html", boomerang=True, fps=10, hold=1))
    assert page.order == [[0, 100], [1, 100], [2, 100], [3, 1000], [2, 100], [1, 100]] and len(page.all("img")) == 4
    page = Page(export(greys(4), tmp_path / "b.html", boomerang=True, loop=False, fps=10))
    assert [frame for frame, _ in page.order] == [0, 1, 2, 3, 2, 1, 0] and page.at("film")["data-loop"] == "false"


@pytest.mark.slow
@pytest.mark.parametrize("boomerang", [False, True])
def test_dropped_frames_take_their_scores_along(boomerang, tmp_path):
    frames = noise(40)
    for i, frame in enumerate(frames):
        frame.paste((6 * i, 6 * i, 6 * i), (0, 0, 32, 32))
    free = export(frames, tmp_path / "a.html", boomerang=boomerang, scores=rows(40)).stat().st_size
    file = export(frames, tmp_path / "b.html", boomerang=boomerang, scores=rows(40), megabytes=free / 2e6)
    assert file.stat().st_size <= free / 2
    page = Page(file)
    kept = [round(picture.getpixel((64, 64))[0] / 6) for picture in page.pictures]
    assert 9 <= len(kept) < 25 and kept[0] == 0 and kept[-1] == 39
    assert [image["alt"].split(" · ")[1] for image in page.all("img")] == [f"step {3 * i + 1}" for i in kept]
    assert boomerang or sum(ms for _, ms in page.order) == sum(ms for _, ms in Page(tmp_path / "a.html").order)


def test_a_limit_that_cannot_be_met(tmp_path):
    with pytest.raises(
        clipgen.ClipgenError, match=r"^megabytes=0.001: tiny.html cannot be made smaller .* allow more$"
    ):
        export(noise(3), tmp_path / "tiny.html", megabytes=0.001)
    assert not list(tmp_path.iterdir())


# --- settings in the page -----------------------------------------------------------------------------


def test_settings_come_back(tmp_path):
    hostile = {"prompt": HOSTILE, HOSTILE: [HOSTILE, {HOSTILE: None}], "size": [64, 64], "lr": 0.1}
    assert settings_of(export(greys(2), tmp_path / "a.html", hostile, scores=rows(2))) == hostile
    large = {"prompt": "a cat", "changes": [{"step": step, "prompt": "<ü>" * 50} for step in range(500)]}
    assert settings_of(export(noise(), tmp_path / "b.html", large)) == large
    assert (tmp_path / "b.html").stat().st_size > 1_300_000, "the pictures are more than is read"
    with pytest.raises(clipgen.ClipgenError, match="carries no settings; choose a PNG"):
        settings_of(export(greys(2), tmp_path / "c.html"))
    with pytest.raises(clipgen.ClipgenError, match="carries no settings; choose a PNG"):
        settings_of(export(greys(2), tmp_path / "d.html", {"prompt": "x" * 1_000_001}))


@pytest.mark.parametrize("suffix", ["html", "png", "gif", "webp"])
@pytest.mark.parametrize("name", ["a.dat", "a", "a.mp4", "a.gif", "a.html", "a.HTM"])
def test_a_file_is_read_whatever_its_suffix(suffix, name, tmp_path):
    file = export(greys(2), tmp_path / f"film.{suffix}", {"prompt": "a cat"})
    assert settings_of(file.rename(tmp_path / name)) == {"prompt": "a cat"}


def test_a_page_that_was_saved_again_is_read(tmp_path):
    """With a byte order mark, Windows' line ends, and what browsers write in front."""
    text = export(greys(2), tmp_path / "a.html", {"prompt": "a cat"}).read_text("utf-8")
    text = text.replace("<!doctype html>", "<!DOCTYPE html>\n<!-- saved from url=(0014)about:internet -->")
    (tmp_path / "b.html").write_text(text, "utf-8-sig", newline="\r\n")
    assert settings_of(tmp_path / "b.html") == {"prompt": "a cat"}


FOREIGN = [
    "",
    "hello",
    "<!doctype html>",
    "<!doctype html><p id=clipgen>{'a': 1}</p>",
    '<!doctype html><script>{"a": 1}</script>',
    '<!doctype html><script id="clipgen">[1]</script>',
    '<!doctype html><script id="clipgen">{"a": 1',
    '<!doctype html><script id="clipgen">' + "[" * 100_000 + "</script>",
    '<!doctype html><script id="clipgen">{"a": "' + "x" * 5_000_000 + '"}</script>',
    '<!doctype html><script id="clipgen">{"a": ' + "9" * 10_000 + "}</script>",
    "<!doctype html>" + "<a <!-- &#" * 200_000,
    "<!doctype html><![x[" + "<" * 500_000,
    "\x00\xff" * 1000,
]


@pytest.mark.parametrize("text", FOREIGN, ids=range(len(FOREIGN)))
def test_foreign_pages_are_refused(text, tmp_path):
    (tmp_path / "a.html").write_text(text, "latin-1")
    refused = r"carries no settings; choose a PNG|cannot be read as a picture or page .*choose one that clipgen wrote"
    with pytest.raises(clipgen.ClipgenError, match=refused) as caught:
        settings_of(tmp_path / "a.html")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_damaged_pages_are_refused_or_read(tmp_path):
    data, rng = export(greys(2), tmp_path / "a.html", {"prompt": "a cat"}).read_bytes(), np.random.default_rng(0)
    for i in range(120):
        hurt = bytearray(data)
        for place in rng.integers(0, 1000, 3):
            hurt[place] = rng.integers(256)
        (tmp_path / "b.html").write_bytes(hurt if i % 2 else data[: rng.integers(1000)])
        try:
            assert isinstance(settings_of(tmp_path / "b.html"), dict)
        except clipgen.ClipgenError as error:
            assert "\n" not in str(error)


@pytest.mark.slow
def test_a_run_is_made_again_from_its_page(run, tmp_path):
    journal = run.journal
    file = export(journal.frames(), tmp_path / "a.html", journal.settings_and_changes, scores=journal.scores)
    assert len(Page(file).all("img")) == len(journal.steps)
    assert clipgen.Run.replay(file, folder=tmp_path).settings == run.settings
