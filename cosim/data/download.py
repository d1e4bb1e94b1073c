"""Fetching files: resumed where a download stopped, checked by md5, whole or absent."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from cosim.errors import ConfigError

_CHUNK = 1 << 20
_TIMEOUT_S = 60
"""Silence after which a connection counts as lost."""

Progress = Callable[[str, int, int | None], None]
"""(file name, bytes here, bytes in all or None where the server does not say)."""


@dataclass(frozen=True)
class Remote:
    """A file on the internet."""

    name: str
    """File name here."""
    md5: str
    addresses: tuple[str, ...]
    """Tried in turn."""


def download(remote: Remote, folder: Path, progress: Progress | None = None) -> Path:
    """Fetch a file, unless it is there and whole.

    What has arrived lies in `NAME.part` until it is complete and its md5 is right; a later call asks for the rest only.

    Parameters
    ----------
    progress
        Called after every piece.

    Raises
    ------
    ConfigError
        No address answers, or what they send has another md5 (the piece is deleted then).
    """
    target, part = folder / remote.name, folder / f"{remote.name}.part"
    if target.exists() and md5_of(target) == remote.md5:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    troubles: list[str] = []
    for address in remote.addresses:
        try:
            _fetch(address, part, progress)
        except (OSError, HTTPException) as error:  # URLError and timeouts are OSErrors
            troubles.append(f"{address}: {error}")
            continue
        found = md5_of(part)
        if found == remote.md5:
            os.replace(part, target)
            return target
        part.unlink()
        troubles.append(f"{address}: md5 is {found}, not {remote.md5}")
    raise ConfigError(
        f"{target}: cannot be fetched ({'; '.join(troubles)}); try again (what has arrived is kept), or put the file "
        "there yourself"
    )


def md5_of(path: Path) -> str:
    """Hexadecimal md5 of a file."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def _fetch(address: str, part: Path, progress: Progress | None) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if have and error.code == 416:  # nothing is left to send: the md5 decides
            return
        raise
    with answer:
        _receive(answer, part, have if answer.status == 206 else 0, progress)


def _receive(answer: HTTPResponse, part: Path, have: int, progress: Progress | None) -> None:
    """Append the answer to the first `have` bytes of the file."""
    length = answer.headers.get("Content-Length")
    whole = None if length is None else have + int(length)
    with part.open("r+b" if have else "wb") as file:
        file.seek(have)
        while piece := answer.read(_CHUNK):
            file.write(piece)
            have += len(piece)
            if progress is not None:
                progress(part.stem, have, whole)
    if whole is not None and have < whole:
        raise OSError(f"the connection ended after {have:,} of {whole:,} bytes")
