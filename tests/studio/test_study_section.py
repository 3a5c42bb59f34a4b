"""A study of the shown run, as a person asks for it: a setting, some values, and the grid that fills."""

import base64
import io
import re

import pytest
from PIL import Image
from studio_hands import SMALL, click, control, named, put, running, until

import clipgen


def begun(studio, name, values):
    """The study of a setting, begun."""
    named(studio, "Vary one setting")[0].value = True
    named(studio.study, "Vary")[0].value = name
    named(studio.study, "Values")[0].value = values
    click(studio.study, "Study")
    return studio.study.study


@pytest.mark.slow
def test_one_setting_of_the_shown_run_is_varied(studio, tmp_path):
    assert studio.study.start_button.disabled, "nothing is shown yet"
    put(studio, init="perlin", generator="pixels", steps=2)
    named(studio, "Prompt 1")[0].value = "a {red} heart"
    click(studio, "Generate")
    run = studio.wait()
    control(studio.controls, "steps").value = 900  # for another run
    study = begun(studio, "lr", "0.1, 0.4")
    assert studio.study.start_button.disabled and not named(studio, "Stop study")[0].disabled
    until(lambda: not studio.study.is_busy, "the end of the study")
    assert not studio.preview.error.value and "Done; the best, by its score: lr=0." in studio.study.note.value
    assert study.finished and [row.journal.settings["lr"] for row in study.rows] == [0.1, 0.4]
    other = {"lr", "format", "machine", "versions"}
    for row in study.rows:
        assert {name for name, value in run.journal.settings.items() if row.journal.settings[name] != value} <= other
    (flow,) = studio.study.grid.children[0].children[2:]
    for tile, row in zip(flow.children, study.rows, strict=True):
        picture, label = tile.children
        assert row.label in label.value and Image.open(io.BytesIO(picture.value)).size == (128, 128)

    click(studio.study, "Export page")
    name, page = re.search(r'download="(.+?)" href="data:text/html;base64,(.+?)"', studio.study.link.value).groups()
    assert name == "study-a-red-heart.html" and base64.b64decode(page).count(b"<li ") == 2
    assert (tmp_path / "study-a-red-heart" / name).is_file()


@pytest.mark.slow
def test_it_is_stopped_and_goes_on(studio, tmp_path):
    put(studio, init="perlin", generator="pixels")
    running(studio)  # of so many steps that none of these runs ends by itself
    click(studio, "Stop")
    studio.wait()
    study = begun(studio, "seed", "1, 2")
    until(lambda: any(row.state.step > 3 for row in study.rows), "a frame")
    click(studio.study, "Stop study")
    until(lambda: not studio.study.is_busy, "the stop")
    assert not study.finished and "Stopped" in studio.study.note.value
    before = max(row.state.step for row in study.rows)
    click(studio.study, "Study")
    again = studio.study.study
    until(lambda: max(row.state.step for row in again.rows) > before, "going on")
    clipgen.Studio("a star", folder=tmp_path, **SMALL)
    until(lambda: not studio.study.is_busy, "the end of it with the next Studio")


def test_what_cannot_be_is_told(studio):
    put(studio, init="perlin", generator="pixels", steps=1)
    click(studio, "Generate")
    studio.wait()
    for values, said in {"-1": "seed=-1", "many": "seed", " ": "write some values"}.items():
        studio.preview.error.show(None)
        begun(studio, "seed", values)
        assert said in studio.preview.error.value and not studio.study.is_busy
