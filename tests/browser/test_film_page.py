"""The page that ``export("film.html")`` writes, in a real browser, from a file: scrubbed, played, read."""

import io

import pytest
from PIL import Image
from playwright.sync_api import expect

from clipgen.export import export

pytestmark = pytest.mark.slow

COLOURS = [(220, 40, 40), (40, 160, 60), (50, 80, 210), (230, 180, 40)]
SCORES = [{"step": 3 * i + 1, "clip": score, "loss": 1.0} for i, score in enumerate([0.1, 0.4, 0.3, 0.625])]
HOSTILE = "</script><script>alert(1)</script><!-- <script> <img src=x onerror=alert(1)> \" ' &amp; é🐈"


@pytest.fixture
def show(chromium, tmp_path):
    """``show(settings, ...)``: the exported page in a tab of its own; nothing may go wrong in it, or leave it."""
    contexts, trouble, file = [], [], tmp_path / "film.html"

    def shown(settings=None, scores=SCORES, browser=None, **options):
        frames = [Image.new("RGB", (64, 48), colour) for colour in COLOURS]
        export(frames, file, settings or {"prompt": "a cat"}, scores=scores, **options)
        contexts.append(chromium.new_context(**({"reduced_motion": "reduce"} | (browser or {}))))
        page = contexts[-1].new_page()
        for event in ("console", "pageerror", "dialog"):
            page.on(event, lambda what: trouble.append(str(getattr(what, "text", what))))
        page.on("request", lambda request: trouble.append(request.url))
        page.goto(file.as_uri())
        return page

    yield shown
    for context in contexts:
        context.close()
    assert set(trouble) == {file.as_uri()}


def seen(page):
    """The colour in the middle of the shown frame, as it is on the screen."""
    with Image.open(io.BytesIO(page.locator("#film").screenshot())) as picture:
        return picture.convert("RGB").getpixel((picture.width // 2, picture.height // 2))


def is_shown(page, frame, score):
    """The picture, what is said of it, the timeline and the curve agree."""
    image = page.locator("#film img:visible")
    expect(image).to_have_count(1)
    assert image.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [384, 288]
    assert max(abs(a - b) for a, b in zip(seen(page), COLOURS[frame])) < 12
    said = f"CLIP · step {3 * frame + 1} · CLIP score {score} · loss 1.000"
    expect(page.locator("#said")).to_have_text(said)
    expect(page.get_by_role("slider", name="Frame")).to_have_attribute("aria-valuetext", said)
    expect(page.get_by_role("slider", name="Frame")).to_have_value(str(frame + 1))
    mark, points = page.locator("#mark circle").bounding_box(), page.locator("#curve").bounding_box()
    spot = (mark["x"] + mark["width"] / 2 - points["x"]) / points["width"]
    assert spot == pytest.approx([10 / 600, 203.3 / 600, 396.7 / 600, 590 / 600][frame], abs=0.005)


def test_the_keyboard_scrubs(show):
    page = show()
    is_shown(page, 3, "0.625")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.locator("#time")).to_be_focused()
    page.keyboard.press("Home")
    is_shown(page, 0, "0.100")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    is_shown(page, 2, "0.300")
    page.keyboard.press("ArrowLeft")
    is_shown(page, 1, "0.400")


def test_the_mouse_scrubs_on_the_curve(show):
    page = show()
    box = page.locator("#curve").bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + 20)
    page.mouse.down()
    is_shown(page, 0, "0.100")
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 20)
    is_shown(page, 2, "0.300")
    page.mouse.up()
    page.mouse.move(box["x"] + 2, box["y"] + 20)
    is_shown(page, 2, "0.300")


def heard(page):
    """The steps that are shown from now on, as a list that the page fills."""
    return page.evaluate_handle(
        """() => {
            const steps = [];
            const note = () => steps.push(document.getElementById("said").textContent.split(" ")[3]);
            new MutationObserver(note).observe(document.getElementById("said"), {childList: true});
            return steps;
        }"""
    )


@pytest.mark.parametrize(
    "key, boomerang, steps",
    [
        ("End", False, "1 4 7 10"),
        ("Home", False, "4 7 10"),
        ("End", True, "7 4 1"),
        ("Home", True, "4 7 10 7 4 1"),
    ],
)
def test_the_button_plays_on_from_there(key, boomerang, steps, show):
    page = show(fps=4, hold=0.5, loop=False, boomerang=boomerang)
    page.locator("#time").press(key)
    history = heard(page)
    page.get_by_role("button", name="Play").press("Enter")
    expect(page.get_by_role("button", name="Pause")).to_be_focused()
    expect(page.get_by_role("button", name="Play")).to_be_visible(timeout=10_000)
    assert " ".join(history.json_value()) == steps


def test_it_plays_by_itself_and_again_unless_motion_is_unwelcome(show):
    page = show(fps=20, hold=0.1, browser={"reduced_motion": "no-preference"})
    history = heard(page)
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    page.wait_for_timeout(1500)
    assert set(history.json_value()) == {"1", "4", "7", "10"} and history.json_value().count("10") > 1
    page.get_by_role("button", name="Pause").click()
    said = page.locator("#said").text_content()
    page.wait_for_timeout(300)
    expect(page.locator("#said")).to_have_text(said)
    page.get_by_role("button", name="Play").click()
    page.locator("#time").press("End")
    page.wait_for_timeout(300)
    is_shown(page, 3, "0.625")

    page = show(fps=20, hold=0)
    page.wait_for_timeout(300)
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    is_shown(page, 3, "0.625")


def test_a_hostile_prompt_is_only_read(show):
    page = show({"prompt": HOSTILE, HOSTILE: {HOSTILE: [HOSTILE]}}, [row | {HOSTILE: 1} for row in SCORES])
    assert page.title() == HOSTILE
    expect(page.locator("h1")).to_have_text(HOSTILE)
    expect(page.locator("td").first).to_have_text(HOSTILE)
    expect(page.locator("th").last).to_have_text(HOSTILE)
    expect(page.locator("#said")).to_contain_text(f"{HOSTILE} 1.000")
    page.locator("#time").press("Home")
    expect(page.locator("#said")).to_contain_text("step 1 ")
    assert page.locator("script").count() == 2 and page.locator("img").count() == 4


def test_without_javascript_the_result_is_there(show):
    page = show(browser={"java_script_enabled": False})
    expect(page.locator("#film img:visible")).to_have_count(1)
    assert max(abs(a - b) for a, b in zip(seen(page), COLOURS[-1])) < 12
    expect(page.locator("#said")).to_contain_text("step 10 · CLIP score 0.625")
    expect(page.locator("#curve")).to_be_visible()
    expect(page.locator("#controls")).to_be_hidden()


@pytest.mark.parametrize("width", [320, 390, 1000, 1920])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_is_legible(width, scheme, show):
    long = {"prompt": "a castle " * 30, "path": "x" * 300, "y" * 100: list(range(100))}
    page = show(long, browser={"viewport": {"width": width, "height": 800}, "color_scheme": scheme})
    assert page.evaluate("document.documentElement.scrollWidth") == width
    tops = [page.locator(name).bounding_box()["y"] for name in ("#film", "table")]
    assert (abs(tops[0] - tops[1]) < 100) == (width >= 800), "side by side where there is room"
    with Image.open(io.BytesIO(page.screenshot())) as picture:
        paper = picture.convert("L").getpixel((3, 3))
    assert paper > 240 if scheme == "light" else paper < 30
