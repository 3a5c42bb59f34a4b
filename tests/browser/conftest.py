"""Real servers and a real browser, headless: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import hashlib
import json
import os
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
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[2]
REPORTS = ROOT / "tests" / "reports"
TOKEN = "secret"
# Where Jupyter and IPython keep what is theirs.
PLACES = (
    "JUPYTER_CONFIG_DIR",
    "JUPYTER_DATA_DIR",
    "JUPYTER_RUNTIME_DIR",
    "IPYTHONDIR",
    "JUPYTERLAB_SETTINGS_DIR",
    "JUPYTERLAB_WORKSPACES_DIR",
)
COLAB = ROOT / "tests" / "environments" / "colab" / "constraints.txt"


@pytest.fixture(scope="session")
def chromium():
    """A headless browser with a camera that shows a test picture and asks nobody."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if not program:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no Chromium: apt-get install chromium")
    options = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=options + ["--no-sandbox"] * (os.geteuid() == 0)
        )
        yield browser
        browser.close()


@pytest.fixture
def page(chromium, serve, request):
    """A page of its own, which is closed before its server ends; what it looks like then is kept."""
    REPORTS.mkdir(exist_ok=True)
    context = chromium.new_context(viewport={"width": 1280, "height": 1400}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.said = []
    page.on("console", lambda message: page.said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: page.said.append(f"pageerror: {error}"))
    yield page
    page.screenshot(path=REPORTS / f"{request.node.name}-end.png", full_page=True)
    (REPORTS / f"{request.node.name}-console.txt").write_text("\n".join(page.said))
    context.close()


@pytest.fixture
def report(request):
    """``report("what", seconds)``: figures for people, in tests/reports; machines differ, so nothing is asserted."""
    figures = {}
    yield lambda what, seconds: figures.update({what: round(seconds, 3)})
    (REPORTS / f"{request.node.name}.json").write_text(json.dumps(figures, indent=1))


@pytest.fixture
def notebooks(tmp_path):
    """A copy of notebooks/, beside the package as in a clone."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns("clipgen-runs"))
    for name in ("clipgen", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path / "notebooks"


@pytest.fixture
def serve(tmp_path, notebooks):
    """``serve(python, module_and_options, status)``: the address of a server that ends with the test."""
    running = []

    def served(python, command, status):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = os.environ | {name: str(tmp_path / name.lower()) for name in PLACES}
        log = tmp_path / "server.log"
        with log.open("w") as out:
            server = subprocess.Popen(
                [python, "-m", *command, f"--port={port}"],
                cwd=notebooks,
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

    yield served
    for server in running:
        server.terminate()  # ends its kernels, too
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def classic(pytestconfig):
    """Python with Colab's front end; everything else (torch, clipgen) is the running environment's. Made once."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    key = hashlib.sha256(f"{sys.prefix} {version} {COLAB.read_text()}".encode()).hexdigest()[:8]
    folder = Path(pytestconfig.cache.mkdir(f"classic-notebook-{key}"))
    python, complete = folder / "bin" / "python", folder / "complete"
    if not complete.exists():
        venv.create(folder, clear=True, with_pip=True)
        parts = ["notebook", "ipykernel", "ipython", "ipywidgets", "traitlets", "anywidget", "setuptools"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--constraint", COLAB, *parts], check=True)
        link = folder / "lib" / f"python{version}" / "site-packages" / "running.pth"
        link.write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
        complete.touch()
    return python
