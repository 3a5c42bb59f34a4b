"""Whether everybody can use the Studio: axe-core's findings, the keyboard, motion; and what it looks like."""

import sys
import sysconfig
from pathlib import Path

import pytest
from playwright.sync_api import expect
from shared_places import REPORTS, write_notebook
from studio_page import StudioPage

pytestmark = pytest.mark.slow
CELL = """import clipgen

clipgen.Studio("a red apple", steps=12, judge="evaluator", generator="mini-vqgan", cutouts=4, tile=True)"""
WIDTHS = {"wide": 1280, "narrow": 420}
GRAVE = {"serious", "critical"}
DARK = Path(sysconfig.get_path("data"), "share/jupyter/nbconvert/templates/lab/static/theme-dark.css")
# What axe finds inside the Studio: rule, how grave, where, and what it says of it.
FINDINGS = """root => axe.run(root).then(found => found.violations.flatMap(rule => rule.nodes.map(node =>
    [rule.impact, rule.id, node.target.join(" "), node.failureSummary])))"""
# Every control that can be seen and used gets a number; and the number of the one that has the focus.
CONTROLS = """root => [...root.querySelectorAll("button, input, select, textarea, a[href], [role=slider]")]
    .filter(it => !it.disabled && it.checkVisibility() && it.type !== "file" && !it.closest("[disabled]")
        && it.getAttribute("aria-disabled") !== "true")
    .forEach((it, number) => it.dataset.control = number)"""
FOCUSED = "document.activeElement.dataset.control ?? null"


@pytest.fixture
def studio(page, serve, notebooks, axe):
    """A Studio with a film, every fold open, on Voilà's page."""
    write_notebook(notebooks / "studio.ipynb", CELL)
    address = serve(sys.executable, ["voila", ".", "--no-browser"], "/voila/tree")
    page.emulate_media(reduced_motion="reduce", color_scheme="light")
    page.goto(f"{address}/voila/render/studio.ipynb?theme=light")
    studio = StudioPage(page)
    studio.button("What CLIP reads in this frame").click()
    studio.generate("a red apple", 12)
    studio.wait_for_step(6)
    studio.root.locator(".clipgen-columns").screenshot(path=REPORTS / "studio-at-work.png")
    studio.wait_for(lambda: studio.step == 12)
    page.evaluate(axe)
    return studio


def darken(page):
    """Bring Voilà's page into the dark theme, as ``?theme=dark`` would."""
    page.emulate_media(color_scheme="dark")
    page.add_style_tag(path=DARK)
    page.evaluate("document.body.dataset.jpThemeLight = 'false'")


def test_everybody_can_use_it(studio, page):
    for name, width in WIDTHS.items():
        page.set_viewport_size({"width": width, "height": 2600})
        studio.root.screenshot(path=REPORTS / f"studio-{name}.png")
    page.set_viewport_size({"width": 1280, "height": 3600})
    for fold in studio.root.locator(".clipgen-fold > button").all():
        if "mod-active" not in fold.get_attribute("class"):
            fold.click()
    studio.button("Preview 3 x 3 tiles").click()
    studio.button("Show the cutouts").click()
    studio.fill("Find", "apple")
    studio.button("Show it").click()
    for picture in (".clipgen-views", ".clipgen-where"):
        page.wait_for_function("it => it.naturalWidth > 0", arg=studio.root.locator(picture).element_handle())
    expect(studio.root.locator(".clipgen-words")).to_contain_text("cosine")
    is_reached_by_tab_alone(studio, page)
    # Nothing moves by itself for who wants no motion.
    moving = studio.root.evaluate("root => root.getAnimations({subtree: true}).map(it => String(it.animationName))")
    assert not moving
    nothing_grave_is_found(studio, "light")
    darken(page)
    nothing_grave_is_found(studio, "dark")


def nothing_grave_is_found(studio, theme):
    studio.root.screenshot(path=REPORTS / f"studio-{theme}-open.png")
    found = studio.root.evaluate(FINDINGS)
    grave = [finding for finding in found if finding[0] in GRAVE]
    (REPORTS / f"studio-{theme}-axe.txt").write_text("\n\n".join("\n".join(map(str, finding)) for finding in found))
    assert not grave, "\n\n".join("\n".join(finding) for finding in grave)


def is_reached_by_tab_alone(studio, page):
    """With the Tab key alone one comes to every control."""
    studio.root.evaluate(CONTROLS)
    controls = studio.root.locator("[data-control]").count()
    assert controls > 40
    left = {str(number) for number in range(controls)}
    studio.root.get_by_label("Prompt 1", exact=True).focus()
    for _ in range(2 * controls + 20):
        left.discard(page.evaluate(FOCUSED))
        if not left:
            return
        page.keyboard.press("Tab")
    raise AssertionError(
        [studio.root.locator(f"[data-control='{number}']").evaluate("it => it.outerHTML") for number in left]
    )
