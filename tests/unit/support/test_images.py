"""When stand-ins are built anew, and what is said where no engine can be had."""

import os
from pathlib import Path

import pytest

from tests.containers.images import __main__ as images
from tests.containers.images.build import FOLDER, STAND_INS, digest


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = tmp_path / "context"
    (folder / "bin").mkdir(parents=True)
    (folder / "Dockerfile").write_text("FROM scratch")
    (folder / "bin" / "run").write_text("exec")
    return folder


def test_the_same_inputs_have_the_same_name(context: Path) -> None:
    """So nothing is built twice."""
    assert digest([context], "base") == digest([context], "base")


@pytest.mark.parametrize(
    ("changed", "content"), [("Dockerfile", "FROM other"), ("bin/run", "exec "), ("bin/new", "")]
)
def test_whatever_changes_is_built_anew(context: Path, changed: str, content: str) -> None:
    """A file's content, a file that is new, and the image that it is built on."""
    before = digest([context], "base")
    (context / changed).write_text(content)
    assert digest([context], "base") != before
    assert digest([context], "another") != digest([context], "base")


def test_every_stand_in_has_its_folder() -> None:
    """And each folder with a Dockerfile is one."""
    assert {path.parent.name for path in FOLDER.glob("*/Dockerfile")} == {
        stand_in.folder for stand_in in STAND_INS.values()
    }


def test_no_engine_is_told_apart_from_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A code of its own, and words that nobody overlooks; the command does not run."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.chdir(tmp_path)
    assert images.main(["touch", "ran"]) == images.EXIT_NO_ENGINE == 69
    told = capsys.readouterr().err
    assert "NO CONTAINER ENGINE" in told
    assert "there is no command `docker`" in told
    assert not (tmp_path / "ran").exists()
