"""Every notebook runs from top to bottom, shortened, and is its jupytext source."""

import os
import pathlib
import re

import pytest

FOLDER = pathlib.Path(__file__).parents[2] / "colab"
SOURCES = sorted(FOLDER.glob("*.py"))


def test_there_are_notebooks():
    assert SOURCES
    assert {p.stem for p in FOLDER.glob("*.ipynb")} == {p.stem for p in SOURCES}


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_the_notebook_is_its_source(source):
    import jupytext

    def cells(path):
        return [(c.cell_type, c.source) for c in jupytext.read(path).cells]

    assert cells(source) == cells(source.with_suffix(".ipynb"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_what_was_kept_of_a_run(source):
    """Pictures are small, and nothing tells of warnings or of the machine."""
    import nbformat

    path = source.with_suffix(".ipynb")
    assert path.stat().st_size < 1_000_000
    cells = nbformat.read(path, as_version=4).cells
    for output in (output for cell in cells for output in cell.get("outputs", ())):
        assert output.output_type in ("stream", "display_data", "execute_result")
        assert output.get("name") != "stderr"
        assert not re.search(r"/(home|root|tmp|work)/", output.get("text", ""))


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
# The kernel's own machinery warns of its event loop and of its ports.
@pytest.mark.filterwarnings("ignore")
def test_the_notebook_runs(source, monkeypatch):
    import nbclient
    import nbformat

    monkeypatch.setenv("JAXSEG_REHEARSAL", "1")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    # The notebook is a user's process: one device. It compiles as the tests do, into their cache.
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=1")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", os.fspath(FOLDER.parent / ".cache" / "jax"))
    notebook = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": os.fspath(FOLDER.parent)}}
    )
    client.execute()
    pictures = [
        output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    assert pictures
