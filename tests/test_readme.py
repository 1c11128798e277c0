"""What the README shows runs as it stands."""

import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_the_python_examples_run():
    """Each with names of its own, all in one process, which is a user's."""
    examples = blocks("python")
    runner = "import json, sys\nfor code in json.load(sys.stdin): print('>'), exec(code, {})"
    done = subprocess.run(
        [sys.executable, "-c", runner],
        cwd=ROOT,
        input=json.dumps(examples),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.split(">\n")[1:]
    assert len(said) == len(examples) and all(said)


def test_the_first_commands_are_make():
    first = blocks("sh")[0].splitlines()
    assert [line.split()[:2] for line in first] == [["make", "demo"], ["make", "test"]]
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{line.split()[1]}:" in makefile for line in first)
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_every_command_exists_with_its_options(tmp_path):
    from jaxseg.cli import COMMANDS

    shell = "\n".join(blocks("sh"))
    for command in re.findall(r"^jaxseg (\S+)", shell, re.MULTILINE):
        assert command in COMMANDS
    cut = next(line for line in shell.splitlines() if line.startswith("jaxseg superpixels jaxseg/"))
    arguments = cut.split()[1:]
    arguments[arguments.index("-o") + 1] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "jaxseg", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    assert done.returncode == 0, done.stderr
    names = {p.name for p in tmp_path.iterdir()}
    assert {"chelsea.png", "chelsea_overlay.png", "chelsea.json"} <= names
