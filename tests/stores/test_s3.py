"""Blobs in a bucket: what S3 does differently from a disk, and what it answers on a bad day.

The service is moto's; in front of it a small proxy passes everything on, except for the fault that a test asks for.
"""

import http.client
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from backends import Backend, s3

import plumbline.stores.s3
from plumbline.errors import PlumblineError
from plumbline.records import digest_bytes
from plumbline.stores.blobs import open_blobs
from plumbline.stores.s3 import S3Blobs, S3Refused

PACK = digest_bytes(b"pack")
HOP = {"host", "connection", "transfer-encoding", "content-length", "accept-encoding", "expect"}


class Proxy:
    """`before` sees each request's method and path; it may act, or answer (status, S3 error code) in its stead."""

    def __init__(self, target: str) -> None:
        self.before: Callable[[str, str], tuple[int, str] | None] = lambda method, path: None
        self.hide: set[str] = set()  # headers that the service behind does not know
        self.cut_bodies = 0  # how many bodies of objects break off half-way
        self.seen: list[tuple[str, str]] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                proxy.seen.append((self.command, self.path))
                fault = proxy.before(self.command, self.path)
                if fault is not None:
                    status, code = fault
                    self.say(status, {}, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())
                    return
                kept = {n: v for n, v in self.headers.items() if n.lower() not in HOP | proxy.hide}
                behind = http.client.HTTPConnection(target.removeprefix("http://"), timeout=30)
                behind.request(self.command, self.path, body, kept)
                reply = behind.getresponse()
                self.say(reply.status, dict(reply.headers), reply.read())
                behind.close()

            def say(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in HOP:
                        self.send_header(name, value)
                length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
                self.send_header("Content-Length", length)
                self.end_headers()
                if self.command == "GET" and status == 200 and len(body) > 100 and proxy.cut_bodies:
                    proxy.cut_bodies -= 1
                    self.wfile.write(body[:50])
                    self.close_connection = True
                elif self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = answer

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    made = Proxy(s3().endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.endpoint)
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")  # bodies in one piece, as the proxy reads
    yield made
    made.close()


@pytest.fixture
def place() -> str:
    return s3().bucket()


def versions(place: str) -> list[Any]:
    """Every version and delete marker in the bucket."""
    listed = s3().client().list_object_versions(Bucket=place.split("/")[2])
    return [*listed.get("Versions", ()), *listed.get("DeleteMarkers", ())]


def stored(place: str) -> dict[str, bytes]:
    return Backend("postgresql+s3", "", place).stored_blobs()


# --- where ---------------------------------------------------------------------------------------------------------


def test_blobs_lie_under_the_prefix_and_two_prefixes_are_two_stores(place: str) -> None:
    one, other, root = (open_blobs(f"{place.rpartition('/')[0]}{end}") for end in ("/a", "/b/c/", ""))
    address = one.put(b"here")
    assert not other.has(address) and not root.has(address)
    assert root.put(b"here") == address and other.put_at(address, b"chosen")
    keys = {version["Key"] for version in versions(place)}
    digits = address.removeprefix("sha256:")
    assert keys == {f"a/content/{digits}", f"content/{digits}", f"b/c/keyed/{digits}"}


@pytest.mark.parametrize("wrong", ["s3://", "s3://UPPER/x", "s3://a/x", "s3:///x"])
def test_a_place_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(PlumblineError, match="names no place"):
        open_blobs(wrong)


def test_a_bucket_that_is_not_there_is_named() -> None:
    s3()
    with pytest.raises(PlumblineError, match="there is no bucket nowhere-at-all"):
        open_blobs("s3://nowhere-at-all/x")


def test_without_boto3_the_extra_is_named() -> None:
    program = (
        "import sys; sys.modules['boto3'] = None\nfrom plumbline.stores.blobs import open_blobs\nopen_blobs('s3://b')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "pip install 'plumbline[s3]'" in done.stderr


# --- a bad day -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (403, "AccessDenied", "does not let this user in"),
        (403, "SignatureDoesNotMatch", "does not let this user in"),
        (403, "RequestTimeTooSkewed", "clock of this machine"),
        (404, "NoSuchBucket", "there is no bucket"),
        (507, "InsufficientStorage", "no space left"),
        (400, "KeyTooLongError", "answered KeyTooLongError"),
    ],
)
def test_an_answer_that_refuses_is_said_with_a_remedy(
    proxy: Proxy, place: str, status: int, code: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    blobs = open_blobs(place)
    proxy.before = lambda method, path: (status, code) if method in ("PUT", "GET") else None
    for use in (lambda: blobs.put(b"data"), lambda: blobs.get(PACK), lambda: blobs.put_pack(PACK, b"data")):
        with pytest.raises(PlumblineError, match=said):
            use()
    proxy.before = lambda method, path: None
    assert stored(place) == {}


def quick(monkeypatch: pytest.MonkeyPatch, attempts: int = 1) -> None:
    """Fewer attempts than the five, for tests that would only wait for them."""
    config = plumbline.stores.s3._CONFIG.merge(
        plumbline.stores.s3.Config(retries={"mode": "standard", "total_max_attempts": attempts}, connect_timeout=0.5)
    )
    monkeypatch.setattr(plumbline.stores.s3, "_CONFIG", config)


def test_a_service_that_is_busy_is_asked_again_and_not_for_ever(proxy: Proxy, place: str) -> None:
    blobs = open_blobs(place)
    busy = [True, True]
    proxy.before = lambda method, path: (503, "SlowDown") if busy and busy.pop() else None
    address = blobs.put(b"after two refusals")
    assert blobs.get(address) == b"after two refusals"
    proxy.before, proxy.seen = lambda method, path: (503, "SlowDown"), []
    with pytest.raises(PlumblineError, match="cannot be reached"):
        blobs.has(address)
    assert len(proxy.seen) == 5


def test_a_service_that_is_away_is_named(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(PlumblineError, match="cannot be reached") as away:
        open_blobs(place)
    assert "AWS_ENDPOINT_URL" in away.value.remedy


def test_credentials_that_are_wrong_are_refused_at_opening(proxy: Proxy, place: str) -> None:
    proxy.before = lambda method, path: (403, "InvalidAccessKeyId")
    with pytest.raises(PlumblineError, match="InvalidAccessKeyId"):
        open_blobs(place)


def test_missing_credentials_are_named(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", "/nonexistent")
    with pytest.raises(PlumblineError, match="no credentials"):
        open_blobs(place)


def test_a_body_that_breaks_off_is_read_again(proxy: Proxy, place: str) -> None:
    blobs = open_blobs(place)
    address = blobs.put(b"long" * 1000)
    proxy.cut_bodies = 2
    assert blobs.get(address) == b"long" * 1000
    assert proxy.cut_bodies == 0
    proxy.cut_bodies = 99
    with pytest.raises(PlumblineError, match="cannot be reached"):
        blobs.get(address)


def test_two_writers_at_once_who_get_a_conflict_try_again(proxy: Proxy, place: str) -> None:
    blobs = open_blobs(place)
    blobs.put_at(digest_bytes(b"other"), b"warm")
    conflicts = [True, True]
    proxy.before = lambda method, path: (
        (409, "ConditionalRequestConflict") if method == "PUT" and conflicts and conflicts.pop() else None
    )
    assert blobs.put_at(PACK, b"chosen")
    assert blobs.get(PACK) == b"chosen" and not conflicts


@pytest.mark.parametrize("header", ["if-none-match", "if-match"])
def test_a_service_that_ignores_conditions_is_not_trusted_with_them(proxy: Proxy, place: str, header: str) -> None:
    proxy.hide = {header}
    blobs = open_blobs(place)
    for use in (lambda: blobs.put_at(PACK, b"x"), lambda: blobs.put_pack(PACK, b"x")):
        with pytest.raises(PlumblineError, match="ignores If-None-Match or If-Match"):
            use()
    assert versions(place) == []
    assert blobs.get(blobs.put(b"content needs no conditions")) == b"content needs no conditions"


# --- packs ---------------------------------------------------------------------------------------------------------


def test_two_who_overwrite_a_pack_at_once_both_succeed(proxy: Proxy, place: str) -> None:
    """Between the reading and the writing of one, the other overwrites: the first must not write that back."""
    one, other = open_blobs(place), S3Blobs(place)
    one.put_pack(PACK, b"one two three")
    other.put_pack(PACK, b"")
    between = [True]

    def before(method: str, path: str) -> None:
        if method == "PUT" and "/packs/" in path and between and between.pop():
            other.overwrite_pack(PACK, [(8, b".....")])

    proxy.before = before
    one.overwrite_pack(PACK, [(0, b"...")])
    assert not between
    assert bytes(one.view_pack(PACK)) == b"... two ....."


def test_a_pack_that_never_rests_is_given_up_with_an_error(proxy: Proxy, place: str) -> None:
    blobs = open_blobs(place)
    blobs.put_pack(PACK, b"one two three")
    proxy.before = lambda method, path: (412, "PreconditionFailed") if method == "PUT" else None
    with pytest.raises(PlumblineError, match="5 times over"):
        blobs.overwrite_pack(PACK, [(0, b"...")])
    assert blobs.read_pack(PACK, 0, 3) == b"one"


def test_a_range_costs_one_request_and_only_its_bytes(proxy: Proxy, place: str) -> None:
    blobs = open_blobs(place)
    blobs.put_pack(PACK, bytes(100_000) + b"needle" + bytes(100_000))
    proxy.seen.clear()
    assert blobs.read_pack(PACK, 100_000, 6) == b"needle"
    assert [method for method, _ in proxy.seen] == ["GET"]


# --- erasure -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["from the start", "later", "suspended"])
def test_with_versioning_erasure_reaches_every_version(when: str) -> None:
    place = s3().bucket(versioned=when != "later")
    client, bucket = s3().client(), place.split("/")[2]
    blobs = open_blobs(place)
    if when == "later":
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    content = blobs.put(b"canary in content")
    blobs.put_at(PACK, b"canary in keyed")
    blobs.put_pack(PACK, b"canary and the rest")
    if when == "suspended":
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
        blobs = open_blobs(place)
    blobs.overwrite_pack(PACK, [(0, b"......")])
    assert blobs.delete(content) and blobs.delete(PACK)
    assert not blobs.delete(content)
    assert {name.split("/")[0]: data for name, data in stored(place).items()} == {"packs": b"...... and the rest"}
    assert blobs.delete_pack(PACK) and not blobs.delete_pack(PACK)
    assert versions(place) == []


def test_an_erasure_that_was_cut_short_is_finished_by_repeating_it(proxy: Proxy) -> None:
    """With versioning, the current version goes last: until then the blob is found, and deleting goes on."""
    place = s3().bucket(versioned=True)
    blobs = open_blobs(place)
    for data in (b"one", b"two", b"three"):
        s3().client().put_object(Bucket=place.split("/")[2], Key=f"blobs/packs/{PACK[7:]}", Body=data)
    deletions = []

    def before(method: str, path: str) -> tuple[int, str] | None:
        deletions.append(method == "DELETE")
        return (403, "AccessDenied") if sum(deletions) > 1 and method == "DELETE" else None

    proxy.before = before
    with pytest.raises(S3Refused):
        blobs.delete_pack(PACK)
    proxy.before = lambda method, path: None
    assert bytes(blobs.view_pack(PACK)) == b"three" and len(versions(place)) == 2
    assert blobs.delete_pack(PACK)
    assert versions(place) == []


def test_where_versioning_cannot_be_seen_nothing_is_called_erased(proxy: Proxy, place: str) -> None:
    proxy.before = lambda method, path: (403, "AccessDenied") if "versioning" in path else None
    blobs = open_blobs(place)
    address = blobs.put(b"stays")
    blobs.put_pack(PACK, b"stays too")
    for use in (
        lambda: blobs.delete(address),
        lambda: blobs.delete_pack(PACK),
        lambda: blobs.overwrite_pack(PACK, [(0, b".")]),
    ):
        with pytest.raises(S3Refused, match="cannot be told whether"):
            use()
    assert blobs.get(address) == b"stays" and blobs.read_pack(PACK, 0, 5) == b"stays"


def test_copies_in_another_bucket_are_said(proxy: Proxy, place: str) -> None:
    blobs = open_blobs(place)
    assert blobs.remains() == ()
    proxy.before = lambda method, path: (403, "AccessDenied")
    assert "may be replicated" in blobs.remains()[0]
    proxy.before = lambda method, path: None
    client, bucket = s3().client(), place.split("/")[2]
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    rule = {"ID": "all", "Priority": 1, "Status": "Enabled", "Filter": {"Prefix": ""}}
    rule |= {"Destination": {"Bucket": "arn:aws:s3:::elsewhere"}, "DeleteMarkerReplication": {"Status": "Disabled"}}
    client.put_bucket_replication(
        Bucket=bucket, ReplicationConfiguration={"Role": "arn:aws:iam::123456789012:role/r", "Rules": [rule]}
    )
    (sentence,) = blobs.remains()
    assert "is replicated" in sentence


def test_sweeping_ends_uploads_that_were_left_unfinished_under_the_prefix_only(place: str) -> None:
    client, bucket = s3().client(), place.split("/")[2]
    blobs = open_blobs(place)
    address = blobs.put(b"whole")
    for key in ("blobs/content/half", "blobs/packs/half", "elsewhere/half"):
        client.create_multipart_upload(Bucket=bucket, Key=key)
    assert blobs.sweep() == 2
    assert blobs.sweep() == 0
    assert [left["Key"] for left in client.list_multipart_uploads(Bucket=bucket)["Uploads"]] == ["elsewhere/half"]
    assert blobs.get(address) == b"whole"
