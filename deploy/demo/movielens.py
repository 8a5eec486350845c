"""MovieLens-100k: 100,000 ratings of films, collected by GroupLens at the University of Minnesota.

Harper and Konstan: The MovieLens Datasets: History and Context (ACM TiiS 5, 2015). Its terms do not allow
redistribution, so this project does not contain it. It is read from a Python package that contains it,
which is downloaded once and never installed.
"""

import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deploy.demo.ratings import Ratings
from deploy.local.java import cache_folder
from schemas.errors import SetupError

_PACKAGE = "recbole==1.2.1"
_WHEEL = "recbole-1.2.1-py3-none-any.whl"
_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
_DATA = "recbole/dataset_example/ml-100k/ml-100k"
_DOWNLOAD_SECONDS = 300


@dataclass(frozen=True, slots=True)
class MovieLens:
    """The data set; `user_ids` and `titles` are in the order of the ratings' indices."""

    ratings: Ratings
    user_ids: tuple[str, ...]
    titles: tuple[str, ...]


def load_movielens(report: Callable[[str], None]) -> MovieLens:
    """Read the data from the user's cache folder, where pip downloads it first; raises SetupError."""
    path = cache_folder() / _WHEEL
    wheel = path.read_bytes() if path.is_file() else b""
    # The cached file is verified at each use, so a damaged one is never parsed.
    if not _is_genuine(wheel):
        report(f"downloading MovieLens-100k inside {_PACKAGE} with pip (2 MB, once)")
        try:
            wheel = _download(path)
        except OSError as error:
            raise SetupError(f"{path} cannot be stored: {error}; set XDG_CACHE_HOME") from error
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        return parse(
            archive.read(f"{_DATA}.inter").decode("utf-8"), archive.read(f"{_DATA}.item").decode("utf-8")
        )


def parse(ratings_text: str, items_text: str) -> MovieLens:
    """PURE. Parse both tables: tab-separated, with a header. Indices are in the order of the ids."""
    rows = np.loadtxt(io.StringIO(ratings_text), skiprows=1, delimiter="\t", ndmin=2)
    user_ids, user_idx = np.unique(rows[:, 0].astype(np.int64), return_inverse=True)
    item_ids, item_idx = np.unique(rows[:, 1].astype(np.int64), return_inverse=True)
    titles = dict(line.split("\t")[:2] for line in items_text.splitlines()[1:])
    return MovieLens(
        Ratings(
            user_idx=user_idx,
            item_idx=item_idx,
            rating=rows[:, 2].astype(np.float32),
            rated_at=rows[:, 3].astype(np.int64),
            users=len(user_ids),
            items=len(item_ids),
        ),
        user_ids=tuple(map(str, user_ids)),
        titles=tuple(titles[str(item)] for item in item_ids),
    )


def _download(path: Path) -> bytes:
    """Download the wheel to `path` atomically, and return its content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="movielens-") as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
        try:
            ended = subprocess.run(
                [*command, "--only-binary", ":all:", _PACKAGE],
                capture_output=True,
                text=True,
                check=False,
                timeout=_DOWNLOAD_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise SetupError(f"pip has not downloaded {_PACKAGE} after {_DOWNLOAD_SECONDS} s") from None
        if ended.returncode != 0:
            raise SetupError(
                f"pip cannot download {_PACKAGE}, which contains the data: {ended.stderr.strip()}"
            )
        fetched = Path(folder, _WHEEL)
        wheel = fetched.read_bytes()
        if not _is_genuine(wheel):
            raise SetupError(f"the digest of {_PACKAGE} from pip is not the one that this demo expects")
        fetched.replace(path)
    return wheel


def _is_genuine(wheel: bytes) -> bool:
    return hashlib.sha256(wheel).hexdigest() == _SHA256
