"""Downloads from a server in this process: resumed, checked, whole or absent."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from cosim.data import cifar
from cosim.data.cifar import CIFAR10, load_cifar
from cosim.data.download import Remote, download
from cosim.data.sources import Source
from cosim.errors import ConfigError

CONTENT = np.random.default_rng(0).bytes(3_000_000)


class _Server(ThreadingHTTPServer):
    content = CONTENT
    breaks_after: int | None = None
    """Bytes after which the next answer ends."""
    ranges = True
    asked: list[str | None]
    """The Range of each request."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        if self.path == "/missing":
            self.send_error(404)
            return
        start = int(asked[6:-1]) if asked and self.server.ranges else 0
        if start >= len(self.server.content):
            self.send_error(416)
            return
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        stop, self.server.breaks_after = self.server.breaks_after, None
        self.wfile.write(body[:stop])

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[_Server]:
    server = _Server(("127.0.0.1", 0), _Handler)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def _remote(server: _Server, *paths: str, md5: str | None = None) -> Remote:
    found = hashlib.md5(server.content).hexdigest()
    host = f"http://127.0.0.1:{server.server_address[1]}"
    return Remote("file.bin", md5 or found, tuple(host + path for path in paths or ("/file.bin",)))


def test_a_file_arrives_whole_and_is_not_fetched_again(server, tmp_path):
    heard = []
    remote = _remote(server)
    path = download(remote, tmp_path / "new", lambda *args: heard.append(args))
    assert path.read_bytes() == CONTENT
    assert heard[-1] == ("file.bin", len(CONTENT), len(CONTENT))
    assert [entry.name for entry in path.parent.iterdir()] == ["file.bin"]
    download(remote, tmp_path / "new")
    assert server.asked == [None]


def test_a_broken_download_goes_on_where_it_stopped(server, tmp_path):
    server.breaks_after = 1_234_567
    with pytest.raises(ConfigError, match="what has arrived is kept"):
        download(_remote(server), tmp_path)
    assert not (tmp_path / "file.bin").exists()
    assert (tmp_path / "file.bin.part").stat().st_size == 1_234_567
    assert download(_remote(server), tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1234567-"]
    assert not (tmp_path / "file.bin.part").exists()


def test_a_server_that_cannot_resume_starts_anew(server, tmp_path):
    server.ranges = False
    (tmp_path / "file.bin.part").write_bytes(b"x" * 1000)
    assert download(_remote(server), tmp_path).read_bytes() == CONTENT


def test_a_complete_part_is_only_checked(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    assert download(_remote(server), tmp_path).read_bytes() == CONTENT


def test_other_content_is_refused_and_deleted(server, tmp_path):
    with pytest.raises(ConfigError, match=r"file\.bin: cannot be fetched .*md5 is .*, not 0000"):
        download(_remote(server, md5="0" * 32), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_next_address_is_tried_where_one_does_not_answer(server, tmp_path):
    assert download(_remote(server, "/missing", "/file.bin"), tmp_path).read_bytes() == CONTENT
    with pytest.raises(ConfigError, match="404"):
        download(_remote(server, "/missing", md5="1" * 32), tmp_path)


def test_the_archive_of_cifar_is_fetched_and_unpacked(server, tmp_path, monkeypatch):
    batch = pickle.dumps({b"labels": [i % 10 for i in range(20)], b"data": np.zeros((20, 3072), np.uint8)}, protocol=2)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "readme.html"):
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(batch)
            tar.addfile(member, io.BytesIO(batch))
    server.content = file.getvalue()
    source = Source(CIFAR10.name, CIFAR10.folder, CIFAR10.address, (_remote(server),))
    monkeypatch.setattr(cifar, "CIFAR10", source)
    data = load_cifar(source, root=tmp_path, fetch=True)
    assert data.summary == "cifar10: 90 train, 10 validation, 20 test images"
    assert not (tmp_path / "cifar-10-batches-py" / "readme.html").exists()
    load_cifar(source, root=tmp_path, fetch=True)
    assert len(server.asked) == 1


def test_official_addresses_and_md5s_are_complete() -> None:
    from cosim.data.idx import FASHION_MNIST, MNIST

    for source in (MNIST, FASHION_MNIST, CIFAR10, cifar.CIFAR100):
        for remote in source.remotes:
            assert len(remote.md5) == 32
            assert remote.addresses
            assert all(address.endswith(remote.name) for address in remote.addresses)


def test_nothing_is_asked_of_the_internet_without_being_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is missing"):
        load_cifar(CIFAR10, root=tmp_path)
    assert list(tmp_path.iterdir()) == []
