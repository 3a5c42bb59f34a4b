"""The page that ``study.export("study.html")`` writes, in a real browser: filtered and ordered."""

import numpy as np
import pytest
from playwright.sync_api import expect
from shared_places import write_notebook

import clipgen

pytestmark = pytest.mark.slow
HOSTILE = "</script><script>alert(1)</script><!-- <img src=x onerror=alert(1)> \" ' &amp; é🐈"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Real rows, one of which cannot be made."""
    folder = tmp_path_factory.mktemp("study")
    poison = np.zeros((1, 3, 5, 5), np.float16)
    axes = {"thing": ["boat", HOSTILE], "init": ["perlin", poison]}
    quick = {"size": (64, 64), "generator": "pixels", "steps": 3, "every": 1, "cutouts": 2}
    return clipgen.study("a {thing}", **axes, **quick, folder=folder, workers=1, progress=False)


@pytest.fixture
def shown(chromium, study, tmp_path):
    """The page in a tab of its own; nothing may go wrong in it, or leave it."""
    file, trouble = study.export(tmp_path / "study.html"), []
    context = chromium.new_context(viewport={"width": 1280, "height": 1000}, reduced_motion="reduce")
    shown = context.new_page()
    for event in ("console", "pageerror", "dialog"):
        shown.on(event, lambda what: trouble.append(str(getattr(what, "text", what))))
    shown.on("request", lambda request: trouble.append(request.url))
    shown.goto(file.as_uri())
    yield shown
    context.close()
    assert set(trouble) == {file.as_uri()}


def test_it_is_filtered_and_ordered(shown, study):
    rows = shown.locator("#rows > li:visible")
    expect(rows).to_have_count(4)
    expect(shown.locator("#count")).to_have_text("4 of 4")
    expect(shown.locator("#rows img")).to_have_count(2)
    expect(rows.nth(1).locator(".error")).to_contain_text("needs (1, 3, 64, 64)")
    shown.get_by_label("thing").select_option("boat")
    expect(rows).to_have_count(2)
    expect(shown.locator("#count")).to_have_text("2 of 4")
    shown.get_by_label("init").select_option("perlin")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("thing=boat, init=perlin")
    shown.get_by_label("thing").select_option("")
    shown.get_by_label("Order").select_option("clip")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text(study.best().label)


def test_a_hostile_word_is_only_read(shown):
    shown.get_by_label("thing").select_option(HOSTILE)
    expect(shown.locator("#rows > li:visible").first).to_contain_text(f"thing={HOSTILE}")


CELL = """import clipgen
study = clipgen.study("a cat", seed=range(3), steps=4, size=(64, 64), init="perlin", cutouts=2, folder="study")
"""


def filled(page, said):
    """Look at the bar and the live grid of that cell until they are full; nothing may have gone wrong on the page."""
    expect(page.get_by_text("rows=3/3")).to_be_visible()
    grid = page.locator("img.clipgen-grid")
    expect(grid).to_be_visible()
    page.wait_for_function("it => it.naturalWidth > 700", arg=grid.element_handle())  # three pictures of 256 pixels
    assert not [line for line in page.said if line.startswith(said)], page.said


@pytest.mark.world
def test_the_live_grid_fills_on_colabs_page(colab):
    colab.evaluate("code => { colab.run(code) }", CELL)
    filled(colab, ("pageerror", "error"))


def test_the_live_grid_fills_in_jupyterlab(page, in_lab, notebooks):
    write_notebook(notebooks / "study.ipynb", CELL + "study")
    run_all, idle = in_lab("study.ipynb")
    run_all()
    filled(page, "pageerror")
    idle()
    expect(page.locator(".jp-OutputArea-output img[src^='data:image/png']")).to_be_visible()  # the sheet
