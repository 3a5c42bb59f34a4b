"""The Studio in JupyterLab, in the classic notebook, in Voilà and on Colab's page, used as a person uses it."""

import json
import re
import sys
import time

import pytest
from PIL import Image, ImageChops, ImageSequence
from playwright.sync_api import expect
from shared_places import JUPYTER, REPORTS, TOKEN
from studio_page import StudioPage

from clipgen.runs.journal import Journal

pytestmark = pytest.mark.slow
NOTEBOOK = "00_start_here.ipynb"
STUDIO = "clipgen.Studio("


@pytest.fixture
def notebooks(notebooks):
    """The first one ends with its first run, which is short: tests/notebooks runs it as it is."""
    notebook = json.loads((notebooks / NOTEBOOK).read_text(encoding="utf-8"))
    codes = ["".join(cell["source"]) for cell in notebook["cells"]]
    made, waited = (next(i for i, code in enumerate(codes) if part in code) for part in (STUDIO, "studio.wait()"))
    small = "size=(64, 64), cutouts=4, every=1, steps=20, prompt="
    notebook["cells"][made]["source"] = codes[made].replace(STUDIO, STUDIO + small)
    notebook["cells"] = notebook["cells"][: waited + 1]
    (notebooks / NOTEBOOK).write_text(json.dumps(notebook), encoding="utf-8")
    return notebooks


@pytest.fixture
def lab(in_lab):
    """JupyterLab with the notebook open: how to run all its cells, and how to wait for their end."""
    return in_lab(NOTEBOOK)


@pytest.fixture
def classic_notebook(page, serve, classic):
    """The same in the classic front end."""
    options = [*JUPYTER, f"--NotebookApp.token={TOKEN}"]
    address = serve(classic, ["notebook", *options], f"/api/status?token={TOKEN}")
    page.goto(f"{address}/notebooks/{NOTEBOOK}?token={TOKEN}")
    expect(page.locator(".cell").first).to_be_visible()
    idle = expect(page.locator("#kernel_indicator_icon.kernel_idle_icon")).to_be_visible
    idle()
    page.locator("#menus").get_by_text("Cell", exact=True).click()
    return page.locator("#run_all_cells").click, lambda: idle()


@pytest.fixture
def voila(page, serve):
    """The same in Voilà, which has run the notebook when it shows it."""
    address = serve(sys.executable, ["voila", ".", "--no-browser"], "/voila/tree")
    return lambda: page.goto(f"{address}/voila/render/{NOTEBOOK}"), lambda: None


@pytest.fixture
def colab_notebook(colab, notebooks):
    """The same on Colab's page, which runs the cells of the notebook."""
    cells = json.loads((notebooks / NOTEBOOK).read_text())["cells"]
    codes = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    begin = (
        "codes => { colab.all = codes.reduce((before, code) => before.then(() => colab.run(code)), Promise.resolve()) }"
    )
    return lambda: colab.evaluate(begin, codes), lambda: colab.evaluate("colab.all")


@pytest.mark.parametrize("front_end", ["lab", "classic_notebook", "voila", "colab_notebook"])
def test_a_film(front_end, request, page, notebooks, report):
    """Generate, steer, move the timeline, pause, export, go on, stop."""
    run_all, idle = request.getfixturevalue(front_end)
    began = time.monotonic()
    run_all()
    studio = StudioPage(page)
    studio.wait_for_picture()
    report("from Run All to the first picture", time.monotonic() - began)
    idle()  # the notebook's own run keeps the kernel from hearing the controls

    studio.generate("a blue car", steps=20_000)
    first = studio.shown()
    studio.wait_for_step(25)
    assert differ(first, studio.shown())

    # Another prompt while it runs: the score against it is low, and rises.
    changed = time.monotonic()
    studio.fill("Prompt 1", "a green tree")
    studio.wait_for(lambda: newest(notebooks).changes)
    report("from another prompt to a step that follows it", time.monotonic() - changed)
    (change,) = newest(notebooks).changes
    assert change["prompt"] == "a green tree"
    studio.wait_for_step(change["step"] + 35)
    page.screenshot(path=REPORTS / f"{front_end}-running.png")
    scores = [row["clip"] for row in newest(notebooks).scores if row["step"] > change["step"]]
    assert min(scores[:3]) + 0.1 < max(scores[-3:])
    assert studio.score > min(scores[:3]) + 0.1

    # The timeline while it runs: another picture, which stays.
    newer = studio.shown()
    studio.move_timeline(0)
    studio.wait_for(lambda: differ(newer, studio.shown()))
    older = studio.shown()
    studio.wait_for_step(studio.step + 6)
    assert not differ(older, studio.shown())
    studio.move_timeline(0.5)
    studio.wait_for(lambda: differ(older, studio.shown()))
    report("from the timeline to another picture", studio.seconds_to_answer("picture"))

    studio.button("Pause").click()
    expect(studio.button("Resume")).to_be_visible()
    report("from Pause to Resume", studio.seconds_to_answer("pause"))
    page.wait_for_timeout(1500)  # the step in the making
    step = studio.step
    page.wait_for_timeout(1500)
    assert studio.step == step

    studio.root.get_by_label("Format", exact=True).select_option("GIF")
    studio.button("Export").click()
    link = studio.root.locator(".clipgen-download a[download]")
    expect(link).to_be_visible()
    page.screenshot(path=REPORTS / f"{front_end}-export.png")
    with page.expect_download() as download:
        link.click()
    assert download.value.suggested_filename == "a-blue-car.gif"
    with Image.open(download.value.path()) as film:
        assert film.format == "GIF"
        assert len({frame.convert("RGB").tobytes() for frame in ImageSequence.Iterator(film)}) > 10

    studio.button("Resume").click()
    studio.wait_for_step(step + 3)
    studio.button("Stop").click()
    expect(studio.root).to_contain_text("Stopped")
    expect(studio.root.locator(".clipgen-gallery")).to_contain_text("a green tree")
    assert not studio.root.locator(".clipgen-error").inner_text().strip()
    assert not [line for line in page.said if line.startswith("pageerror")]


def test_another_generator_and_pictures_of_ones_own(page, lab, notebooks):
    run_all, idle = lab
    run_all()
    studio = StudioPage(page)
    studio.wait_for_picture()
    idle()
    another_generator_becomes_a_page_to_send(studio, page, notebooks)
    a_run_starts_from_a_picture(studio, page, notebooks)
    assert not studio.root.locator(".clipgen-error").inner_text().strip()


def another_generator_becomes_a_page_to_send(studio, page, notebooks):
    """The settings that suit it are behind a button for the keyboard; its film is a page that runs by itself."""
    augment = studio.root.get_by_label("Augmentations", exact=True)
    expect(augment).to_be_hidden()
    fold = studio.button("Cutouts")
    expect(fold).to_have_attribute("title", re.compile("^Closed"))
    fold.press("Enter")
    expect(fold).to_have_attribute("title", re.compile("^Open"))
    usual = augment.input_value()
    studio.root.get_by_label("Generator", exact=True).select_option("fft")
    expect(augment).not_to_have_value(usual)
    page.screenshot(path=REPORTS / "fft.png")
    fold.press("Space")
    expect(augment).to_be_hidden()

    studio.generate("a red heart", steps=9)
    expect(studio.root).to_contain_text("Done")
    studio.root.get_by_label("Format", exact=True).select_option("HTML")
    studio.button("Export").click()
    with page.expect_download() as download:
        studio.root.locator(".clipgen-download a[download]").click()
    film = notebooks / "film.html"
    download.value.save_as(film)
    with page.context.new_page() as shown:
        shown.goto(film.as_uri())
        expect(shown.locator("h1")).to_have_text("a red heart")
        expect(shown.locator("tr").filter(has_text="generator")).to_contain_text("fft")
        shown.get_by_role("slider", name="Frame").press("Home")
        expect(shown.locator("#said")).to_contain_text("draft · row 1")


def a_run_starts_from_a_picture(studio, page, notebooks):
    """A picture is chosen; another is taken, and a run starts from it."""
    studio.button("Start").click()
    field = studio.root.get_by_label("Start from", exact=True)
    studio.choose("Start picture", "sheet.png", (notebooks / "pictures" / "contact-sheet.png").read_bytes())
    expect(field).to_have_value(re.compile("uploads/sheet"))
    studio.button("Start camera").click()
    expect(studio.button("Take picture")).to_be_enabled()
    page.screenshot(path=REPORTS / "webcam.png")
    studio.button("Take picture").click()
    expect(field).to_have_value(re.compile("webcam"))
    with Image.open(notebooks / field.input_value()) as taken:
        assert taken.width >= 320 and colours(taken) > 100

    studio.generate("a red heart", steps=8)  # another number than that of the run before
    expect(studio.root).to_contain_text("Done")
    (begun_with,) = newest(notebooks).inputs().values()
    assert colours(begun_with) > 100


def differ(a, b):
    """Whether two views of the preview are of different frames."""
    return a.size != b.size or max(high for _, high in ImageChops.difference(a, b).getextrema()) > 40


def colours(image):
    return len(image.convert("RGB").getcolors(2**24))


def newest(folder):
    """The journal of the newest run; their names begin with the time."""
    return Journal(max(folder.glob("clipgen-runs/*/settings.json")).parent)
