"""deploy/demo/movielens.py: the tables, and the download with a pip that needs no network."""

import zipfile
from itertools import islice
from pathlib import Path

import pytest

from deploy.demo.movielens import load_movielens, parse
from deploy.demo.replay import requests_of
from schemas.errors import SetupError


def test_parsed_indices_are_in_the_order_of_the_ids() -> None:
    """User and item indices start at 0; the replay has the users' ids."""
    movielens = parse(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n9\t30\t5\t200\n7\t4\t1\t100\n",
        "item_id:token\tmovie_title:token_seq\trelease_year:token\n30\tFargo\t1996\n4\tGet Shorty\t1995\n",
    )
    assert movielens.user_ids == ("7", "9")
    assert movielens.titles == ("Get Shorty", "Fargo")
    assert movielens.ratings.user_idx.tolist() == [1, 0]
    assert movielens.ratings.item_idx.tolist() == [1, 0]
    assert movielens.ratings.rating.tolist() == [5, 1]
    again = [request.user_id for request in islice(requests_of(movielens, movielens.ratings), 4)]
    assert again == ["u9", "u7", "u9", "u7"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and a pip that finds packages only in the folder `offered`."""
    (tmp_path / "offered").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "offered"))
    return tmp_path / "cache" / "headrace"


def test_a_failed_download_is_reported_with_pips_reason(cache: Path) -> None:
    """The message names the package, and the cache stays empty."""
    with pytest.raises(
        SetupError, match=r"(?s)pip cannot download recbole==[\d.]+, .*No matching distribution"
    ):
        load_movielens(lambda _: None)
    assert list(cache.iterdir()) == []


def test_another_file_of_the_same_name_is_refused(cache: Path, tmp_path: Path) -> None:
    """A downloaded or cached file with another digest is not parsed."""
    name = "recbole-1.2.1-py3-none-any.whl"
    with zipfile.ZipFile(tmp_path / "offered" / name, "w") as archive:
        archive.writestr(
            "recbole-1.2.1.dist-info/METADATA", "Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1\n"
        )
        archive.writestr("recbole-1.2.1.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    cache.mkdir(parents=True)
    (cache / name).write_bytes(b"damaged")
    with pytest.raises(SetupError, match="is not the one that this demo expects"):
        load_movielens(lambda _: None)
    assert (cache / name).read_bytes() == b"damaged"
