"""Whether everybody can use the Studio: axe-core's findings, the keyboard, motion; and what it looks like."""

import sys

import nbformat
import pytest
from playwright.sync_api import expect
from shared_places import REPORTS
from studio_page import StudioPage

pytestmark = pytest.mark.slow
CELL = 'import clipgen\n\nclipgen.Studio("a red apple", steps=80, judge="evaluator", generator="mini-vqgan", tile=True)'
WIDTHS = {"wide": 1280, "narrow": 420}
GRAVE = {"serious", "critical"}
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
def studio(page, serve, notebooks, request, axe):
    """A Studio with a film, every fold open, on Voilà's page in the theme that is asked for."""
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)]), notebooks / "studio.ipynb")
    address = serve(sys.executable, ["voila", ".", "--no-browser"], "/voila/tree")
    page.emulate_media(reduced_motion="reduce", color_scheme=request.param)
    page.goto(f"{address}/voila/render/studio.ipynb?theme={request.param}")
    studio = StudioPage(page)
    studio.button("What CLIP reads in this frame").click()
    studio.generate("a red apple", 80)
    studio.wait_for_step(45)
    studio.root.locator(".clipgen-columns").screenshot(path=REPORTS / f"studio-{request.param}-at-work.png")
    studio.wait_for(lambda: studio.step == 80)
    page.evaluate(axe)
    return studio


@pytest.mark.parametrize("studio", ["light", "dark"], indirect=True)
def test_everybody_can_use_it(studio, page, request):
    theme = request.node.callspec.params["studio"]
    for name, width in WIDTHS.items():
        page.set_viewport_size({"width": width, "height": 2600})
        studio.root.screenshot(path=REPORTS / f"studio-{theme}-{name}.png")
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
    studio.root.screenshot(path=REPORTS / f"studio-{theme}-open.png")
    found = studio.root.evaluate(FINDINGS)
    grave = [finding for finding in found if finding[0] in GRAVE]
    (REPORTS / f"studio-{theme}-axe.txt").write_text("\n\n".join("\n".join(map(str, finding)) for finding in found))
    assert not grave, "\n\n".join("\n".join(finding) for finding in grave)

    # With the Tab key alone one comes to every control.
    studio.root.evaluate(CONTROLS)
    controls = studio.root.locator("[data-control]").count()
    assert controls > 40
    reached = set()
    studio.root.get_by_label("Prompt 1", exact=True).focus()
    for _ in range(2 * controls + 20):
        reached.add(page.evaluate(FOCUSED))
        page.keyboard.press("Tab")
    left = [number for number in range(controls) if str(number) not in reached]
    assert not left, [
        studio.root.locator(f"[data-control='{number}']").evaluate("it => it.outerHTML") for number in left
    ]

    # Nothing moves by itself for who wants no motion.
    moving = studio.root.evaluate("root => root.getAnimations({subtree: true}).map(it => String(it.animationName))")
    assert not moving
