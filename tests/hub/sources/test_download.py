"""Downloads against a real server that resumes, truncates, stalls, lies and refuses."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import Loopback, serving, sha256

from miaotui.errors import CacheError, DownloadError
from miaotui.hub.lock import exclusive
from miaotui.hub.sources.connection import UrlOpener, redact, split_login
from miaotui.hub.sources.download import PART_SUFFIX, RemoteFile, download

BODY = bytes(range(256)) * 2000
QUICK = UrlOpener(timeout_s=5.0, pause_s=0.001)


@pytest.fixture
def server() -> Iterator[Loopback]:
    with serving() as running:
        yield running


def remote(server: Loopback, body: bytes = BODY) -> RemoteFile:
    return RemoteFile(f"{server.url}/file?signature=secret", len(body), sha256(body), "a file")


def part_of(target: Path) -> Path:
    return target.with_name(target.name + PART_SUFFIX)


def test_a_file_arrives_with_progress(server: Loopback, tmp_path: Path) -> None:
    server.add("/file", BODY)
    calls: list[tuple[str, int, int | None]] = []
    target = tmp_path / "new" / "file"
    report = lambda *call: calls.append(call)  # noqa: E731
    assert download(remote(server), target, QUICK, report) == target
    assert target.read_bytes() == BODY
    assert calls[0] == ("a file", 0, len(BODY))
    assert calls[-1] == ("a file", len(BODY), len(BODY))
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)
    assert not part_of(target).exists()


def test_what_is_there_is_not_fetched_again(server: Loopback, tmp_path: Path) -> None:
    server.add("/file", BODY)
    download(remote(server), tmp_path / "f", QUICK)
    download(remote(server), tmp_path / "f", QUICK)
    assert len(server.requests) == 1


def test_a_wrong_file_in_its_place_is_replaced(server: Loopback, tmp_path: Path) -> None:
    server.add("/file", BODY)
    (tmp_path / "f").write_bytes(b"x" * len(BODY))
    download(remote(server), tmp_path / "f", QUICK)
    assert (tmp_path / "f").read_bytes() == BODY


def test_broken_connections_are_resumed(server: Loopback, tmp_path: Path) -> None:
    server.add("/file", BODY, breaks=[100_000, 0, 50_000])
    download(remote(server), tmp_path / "f", QUICK)
    assert (tmp_path / "f").read_bytes() == BODY
    assert [r.start for r in server.requests] == [0, 100_000, 100_000, 150_000]


def test_a_chunked_answer_that_breaks_is_resumed(server: Loopback, tmp_path: Path) -> None:
    server.add("/file", BODY, breaks=[70_000], chunked=True)
    download(remote(server), tmp_path / "f", QUICK)
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_partial_file_of_an_earlier_run_is_continued(server: Loopback, tmp_path: Path) -> None:
    server.add("/file", BODY)
    part_of(tmp_path / "f").write_bytes(BODY[:200_000])
    download(remote(server), tmp_path / "f", QUICK)
    assert (tmp_path / "f").read_bytes() == BODY
    assert [r.start for r in server.requests] == [200_000]


def test_a_complete_partial_file_needs_no_request(server: Loopback, tmp_path: Path) -> None:
    part_of(tmp_path / "f").write_bytes(BODY)
    download(remote(server), tmp_path / "f", QUICK)
    assert (tmp_path / "f").read_bytes() == BODY
    assert server.requests == []


@pytest.mark.parametrize(
    "stale", [b"z" * 1000, b"z" * len(BODY), b"z" * (len(BODY) + 5)], ids=["short", "full", "long"]
)
def test_a_partial_file_of_something_else_is_dropped(server: Loopback, tmp_path: Path, stale: bytes) -> None:
    server.add("/file", BODY)
    part_of(tmp_path / "f").write_bytes(stale)
    download(remote(server), tmp_path / "f", QUICK)
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_server_that_cannot_resume_starts_over(server: Loopback, tmp_path: Path) -> None:
    server.add("/file", BODY, breaks=[100_000], resumes=False)
    download(remote(server), tmp_path / "f", QUICK)
    assert (tmp_path / "f").read_bytes() == BODY
    assert len(server.requests) == 2


def test_an_answer_of_another_range_is_not_used(server: Loopback, tmp_path: Path) -> None:
    part_of(tmp_path / "f").write_bytes(BODY[:10])
    server.add("/file", BODY, shifts=[3, -10])
    download(remote(server), tmp_path / "f", QUICK)
    assert (tmp_path / "f").read_bytes() == BODY
    assert [r.start for r in server.requests] == [10, 10, 10]


def test_a_range_that_is_refused_starts_over(server: Loopback, tmp_path: Path) -> None:
    part_of(tmp_path / "f").write_bytes(BODY[:10])
    server.add("/file", BODY, statuses=[416])
    download(remote(server), tmp_path / "f", QUICK)
    assert [r.start for r in server.requests] == [10, 0]


def test_passing_failures_are_retried(server: Loopback, tmp_path: Path) -> None:
    server.add("/file", BODY, statuses=[503, 429, 500])
    download(remote(server), tmp_path / "f", QUICK)
    assert (tmp_path / "f").read_bytes() == BODY


def test_retries_are_bounded_and_what_has_come_is_kept(server: Loopback, tmp_path: Path) -> None:
    server.add("/file", BODY, breaks=[1000, 0, 0, 0, 0, 0, 0, 0])
    with pytest.raises(DownloadError, match=r"ended early.*try again"):
        download(remote(server), tmp_path / "f", QUICK)
    assert len(server.requests) == 5
    assert part_of(tmp_path / "f").read_bytes() == BODY[:1000]
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize(
    ("status", "words"), [(404, "not offered"), (403, "user name"), (407, "proxy"), (400, "index"), (503, "later")]
)
def test_refusals_are_explained_without_secrets(server: Loopback, tmp_path: Path, status: int, words: str) -> None:
    server.add("/file", BODY, statuses=[status] * 9)
    with pytest.raises(DownloadError, match=f"{status}.*{words}") as caught:
        download(remote(server), tmp_path / "f", QUICK)
    assert "secret" not in str(caught.value)
    assert len(server.requests) == (4 if status == 503 else 1)


def test_a_wrong_digest_is_refused_and_removed(server: Loopback, tmp_path: Path) -> None:
    server.add("/file", b"y" * len(BODY))
    with pytest.raises(DownloadError, match="is not the expected file"):
        download(remote(server), tmp_path / "f", QUICK)
    assert [p.name for p in tmp_path.iterdir()] == [".f.lock"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_longer_file_is_refused_without_reading_it_all(server: Loopback, tmp_path: Path, chunked: bool) -> None:
    server.add("/file", BODY * 20, chunked=chunked)
    with pytest.raises(DownloadError, match=r"not the 512,000 expected"):
        download(remote(server), tmp_path / "f", QUICK)
    assert not (tmp_path / "f").exists()


def test_a_shorter_file_is_refused(server: Loopback, tmp_path: Path) -> None:
    server.add("/file", BODY[:-1])
    with pytest.raises(DownloadError, match="It is another file"):
        download(remote(server), tmp_path / "f", QUICK)


def test_a_stalled_server_times_out_and_is_resumed(server: Loopback, tmp_path: Path) -> None:
    server.add("/file", BODY, stall_s=0.5)
    timer = threading.Timer(0.25, lambda: setattr(server.pages["/file"], "stall_s", 0.0))
    timer.start()
    download(remote(server), tmp_path / "f", UrlOpener(timeout_s=0.1, pause_s=0.1))
    assert (tmp_path / "f").read_bytes() == BODY
    assert server.requests[1].start == len(BODY) // 2


def test_an_unreachable_server_is_explained(server: Loopback, tmp_path: Path) -> None:
    file = remote(server)
    server.server_close()
    with pytest.raises(DownloadError, match=r"cannot read .*refused.*Check the network"):
        download(file, tmp_path / "f", QUICK)


def test_a_host_without_address_is_explained(tmp_path: Path) -> None:
    file = RemoteFile("http://no-such-host.invalid/f", 1, "0" * 64, "f")
    with pytest.raises(DownloadError, match=r"HTTPS_PROXY|Check the network"):
        download(file, tmp_path / "f", QUICK)


def test_offline_opens_no_connection(server: Loopback, tmp_path: Path) -> None:
    server.add("/file", BODY)
    with pytest.raises(DownloadError, match=r"offline.*MIAOTUI_OFFLINE"):
        download(remote(server), tmp_path / "f", UrlOpener(offline=True))
    assert server.requests == []


def test_offline_reads_file_addresses(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(BODY)
    file = RemoteFile((tmp_path / "source").as_uri(), len(BODY), sha256(BODY), "f")
    download(file, tmp_path / "f", UrlOpener(offline=True))
    assert (tmp_path / "f").read_bytes() == BODY


@pytest.mark.parametrize("url", ["ftp://host/f", "data:,x", "nonsense"])
def test_other_schemes_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadError, match="only http, https and file"):
        download(RemoteFile(url, 1, "0" * 64, "f"), tmp_path / "f", QUICK)


def test_a_redirect_to_a_file_is_not_followed(server: Loopback, tmp_path: Path) -> None:
    (tmp_path / "private").write_bytes(BODY)
    server.add("/file", redirect=(tmp_path / "private").as_uri())
    with pytest.raises(DownloadError):
        download(remote(server), tmp_path / "f", QUICK)
    assert not (tmp_path / "f").exists()


def test_a_login_goes_to_its_own_host_only(server: Loopback, tmp_path: Path) -> None:
    basic = "Basic dXNlcjpwYXNz"
    logins = {server.url.removeprefix("http://"): "user:pass"}
    with serving() as other:
        other.add("/cdn", BODY)
        server.add("/file", redirect="/moved", login=basic)
        server.add("/moved", redirect=f"{other.url}/cdn", login=basic)
        connection = UrlOpener(timeout_s=5.0, pause_s=0.001, logins=logins)
        download(remote(server), tmp_path / "f", connection)
        assert [r.headers.get("authorization") for r in server.requests] == [basic, basic]
        assert [r.headers.get("authorization") for r in other.requests] == [None]
    assert "user:pass" not in repr(connection)


def test_certificates_that_cannot_be_read_are_named(server: Loopback, tmp_path: Path) -> None:
    connection = UrlOpener(cafile=str(tmp_path / "absent.pem"))
    with pytest.raises(DownloadError, match=r"absent\.pem.*PIP_CERT"):
        download(remote(server), tmp_path / "f", connection)


def test_addresses_are_shown_without_secrets() -> None:
    assert split_login("https://me:p%40ss@host:8/x") == ("https://host:8/x", "me:p@ss")
    assert split_login("https://host/x") == ("https://host/x", None)
    assert redact("https://me:pass@host/x?token=1#f") == "https://host/x"


def test_a_file_in_the_way_of_the_folder_is_explained(server: Loopback, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="MIAOTUI_HOME"):
        download(remote(server), tmp_path / "file" / "f", QUICK)


FULL = """
import resource, sys
from pathlib import Path
from miaotui.errors import CacheError
from miaotui.hub.sources.connection import UrlOpener
from miaotui.hub.sources.download import RemoteFile, download
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
try:
    download(RemoteFile(sys.argv[1], 512_000, sys.argv[2], "f"), Path(sys.argv[3]), UrlOpener())
except CacheError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no file size limits")
def test_a_full_disk_ends_in_one_error_and_no_partial_file(server: Loopback, tmp_path: Path) -> None:
    server.add("/file", BODY)
    file = remote(server)
    done = subprocess.run(
        [sys.executable, "-c", FULL, file.url, file.sha256, str(tmp_path / "f")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "512,000 bytes (512.0 kB) are needed" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == [".f.lock"]


def test_a_file_too_large_for_the_disk_is_not_begun(server: Loopback, tmp_path: Path) -> None:
    file = RemoteFile(f"{server.url}/file", 10**18, "0" * 64, "f")
    with pytest.raises(CacheError, match=r"no room .*1000000.0 TB"):
        download(file, tmp_path / "f", QUICK)
    assert server.requests == []


ONE = """
import sys
from pathlib import Path
from miaotui.hub.sources.connection import UrlOpener
from miaotui.hub.sources.download import RemoteFile, download
download(RemoteFile(sys.argv[1], 512_000, sys.argv[2], "f"), Path(sys.argv[3]), UrlOpener())
"""


def test_several_processes_download_once(server: Loopback, tmp_path: Path) -> None:
    server.add("/file", BODY, stall_s=0.3)
    file = remote(server)
    command = [sys.executable, "-c", ONE, file.url, file.sha256, str(tmp_path / "f")]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [p.wait(60) for p in processes] == [0, 0, 0]
    assert (tmp_path / "f").read_bytes() == BODY
    assert len(server.requests) == 1


def test_a_killed_holder_frees_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    script = (
        "import sys, time; from pathlib import Path; from miaotui.hub.lock import exclusive\n"
        "with exclusive(Path(sys.argv[1])): print('in', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(lock)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == b"in"
        waited: list[bool] = []

        def kill_holder() -> None:
            waited.append(True)
            holder.kill()

        with exclusive(lock, kill_holder):
            assert waited == [True]
    assert os.path.exists(lock)


def test_a_lock_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="MIAOTUI_HOME"), exclusive(tmp_path / "no" / "lock"):
        pass
