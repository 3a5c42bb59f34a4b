"""Files of the shown film, as links."""

import base64
import io
import re

import pytest
from PIL import Image
from studio_hands import SMALL, click, named, put

import clipgen
from clipgen.export import settings_of
from clipgen.images.sheets import enlarge
from clipgen.registry import WRITERS


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A Studio with a run that is only exported."""
    folder = tmp_path_factory.mktemp("runs")
    studio = clipgen.Studio("a red heart", folder=folder, steps=8, init="perlin", **SMALL)
    click(studio, "Generate")
    studio.wait()
    return studio


def linked(studio, suffix):
    """What the link of an export brings, its mime type and its name."""
    named(studio, "Format")[0].value = suffix
    click(studio, "Export")
    ((name, mime, data),) = re.findall(
        r'<a download="([^"]+)" href="data:([^;]+);base64,([^"]+)">', studio.exporter.link.value
    )
    return base64.b64decode(data), mime, name


def test_the_formats_are_those_that_have_a_writer(studio):
    (formats,) = named(studio, "Format")
    assert sorted(suffix for _, suffix in formats.options) == sorted(WRITERS)
    assert [name for name, _ in formats.options] == ["GIF", "WEBP", "MP4", "HTML", "PNG", "SVG"], "films first"
    assert formats.label == "GIF"


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_format_gets_a_link(suffix, request):
    studio = request.getfixturevalue("studio" if WRITERS[suffix].takes_drawings else "finished")
    if WRITERS[suffix].takes_drawings:
        put(studio, generator="strokes")
        put(studio, steps=3, cutouts=4, init="random")
        click(studio, "Generate")
    run = studio.wait()
    data, mime, name = linked(studio, suffix)
    kinds = {".html": "text/html", ".mp4": "video/mp4", ".svg": "image/svg+xml"}
    assert (name, mime) == (f"a-red-heart{suffix}", kinds.get(suffix, f"image/{suffix[1:]}"))
    file = run.journal.folder / name
    assert data == file.read_bytes()
    if suffix != ".mp4":
        assert settings_of(file)["prompt"] == "a red heart"


def test_pixels_are_no_vectors(finished):
    finished.exporter.link.value = ""
    named(finished, "Format")[0].value = ".svg"
    click(finished, "Export")
    assert "makes pixels, no vectors" in finished.preview.error.value and not finished.exporter.link.value


def test_a_page_shows_the_scores(finished):
    run = finished.wait()
    page = linked(finished, ".html")[0].decode()
    assert all(f"CLIP score {row['clip']:.3f}" in page for row in run.journal.scores)
    assert len(re.findall('<img src="data:image/webp;base64,', page)) == 8


def test_a_picture_is_of_the_shown_frame(finished):
    run = finished.wait()
    finished.preview.timeline.value = 3
    with Image.open(io.BytesIO(linked(finished, ".png")[0])) as picture:
        assert picture.tobytes() == enlarge(run.journal.frame(3)).tobytes() != enlarge(run.image).tobytes()
