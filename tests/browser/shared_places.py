"""Where things are, and how servers are started: what the tests of this folder share."""

import json
from pathlib import Path

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
COLAB_PAGE = Path(__file__).parent / "colab"
JUPYTER = ["--no-browser", "--ip=127.0.0.1", "--allow-root"]
PATIENCE = 300_000  # milliseconds: a machine may be busy with other things


def write_notebook(file, source):
    """Write a notebook of one cell."""
    cell = {"cell_type": "code", "id": "only", "execution_count": None, "metadata": {}, "outputs": [], "source": source}
    kernel = {"name": "python3", "display_name": "Python 3"}  # without one JupyterLab asks which
    notebook = {"cells": [cell], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    file.write_text(json.dumps(notebook), encoding="utf-8")
