"""The README and the guide: short, and every link leads somewhere."""

import inspect
import re
import runpy
from pathlib import Path

import pytest

import clipgen

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "notebooks" / "guide").glob("*.md")), ROOT / "tests" / "benchmarks" / "README.md"]
PAGES += [ROOT / "clipgen" / "mini" / "README.md", ROOT / ".github" / "CONTRIBUTING.md"]


def anchors(page):
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_the_readme_is_short():
    text = re.sub(r"```.*?```", "", README.read_text(), flags=re.S)
    assert len(text.split()) <= 900


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    text = page.read_text()
    assert "clipgen.example" not in text
    for link in re.findall(r"\]\((?!https?://)([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_list_of_settings_is_the_declared_one():
    guide = runpy.run_path(str(ROOT / "notebooks" / "guide" / "settings.py"))
    _, heading, written = guide["PAGE"].read_text().partition(guide["HEADING"])
    assert heading + written == guide["list_settings"](), "run python notebooks/guide/settings.py"


@pytest.mark.parametrize("name", clipgen.__all__)
def test_signatures_name_their_types(name):
    """A notebook shows ``prompt: 'PromptLike'``, not the line of all the types that this stands for."""
    public = getattr(clipgen, name)
    if not (inspect.isclass(public) and issubclass(public, Exception)):
        parameters = inspect.signature(public).parameters.values()
        assert all(len(str(parameter)) < 80 for parameter in parameters), [*map(str, parameters)]
