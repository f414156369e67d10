"""Blobs in an S3 bucket: `s3://bucket/prefix`, for several machines at once.

An object is whole or absent and is durable when S3 answers, so nothing needs a temporary name. The first writer of
a chosen address wins by `If-None-Match: *`, and a pack is overwritten by rewriting its object under `If-Match`: of
two who erase from it at once, the later sees the first one's work. A service that ignores those headers would lose
it silently, so the first such write tries them out and refuses the service if it does.

Erasure in a bucket with versioning: S3 would hide the old bytes behind a newer version or a delete marker. Here
every version of the object is deleted by its id, the current one last. Where S3 refuses that (object lock, missing
permission) the call fails: nothing is called erased that is not. Copies that replication made are said by `remains`.

Credentials, region and endpoint come from where the AWS tools take them (AWS_ENDPOINT_URL for a service that is
not Amazon's; AWS_REQUEST_CHECKSUM_CALCULATION=when_required for one that knows no CRC32).
"""

import re
import secrets
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from plumbline.errors import PlumblineError
from plumbline.records import digest_bytes
from plumbline.stores.blobs import check_patches, damaged, digits, missing_blob, missing_pack, outside

try:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError, FlexibleChecksumError, NoCredentialsError
except ImportError as error:
    raise PlumblineError(
        "boto3 is not installed",
        consequence="blobs in S3 cannot be opened",
        remedy="pip install 'plumbline[s3]'",
    ) from error

_LOCATION = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?\Z", re.S)
_ATTEMPTS = 5  # of one request, and of one read of a body that broke off
_PARALLEL = 16
_CONFIG = Config(
    retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
    connect_timeout=5,
    read_timeout=60,
    max_pool_connections=_PARALLEL,
)
_CONFLICT = ("ConditionalRequestConflict", "OperationAborted")
Kind = Literal["content", "keyed", "packs"]
_BLOBS: tuple[Kind, ...] = ("content", "keyed")


class S3Blobs:
    """The blobs under a prefix of a bucket. Safe for several threads, processes and machines.

    Errors: PlumblineError when the bucket is missing, refuses, cannot be reached (after five attempts each) or is
    full, when a blob is missing, and when its bytes are not those that its address promises.
    """

    def __init__(self, location: str) -> None:
        found = _LOCATION.match(location)
        if found is None:
            raise PlumblineError(
                "the URL of the blobs names no place in S3",
                consequence="nothing was read or stored",
                remedy="write s3://BUCKET/PREFIX",
            )
        self.location = location
        self._bucket, prefix = found[1], (found[2] or "").strip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._conditions_hold = False
        try:
            self._client: Any = boto3.session.Session().client("s3", config=_CONFIG)
        except (BotoCoreError, ValueError) as error:
            raise self._fault(error) from error
        self._versioned = self._ask_versioned()

    def __str__(self) -> str:
        return self.location

    def __reduce__(self) -> tuple[object, ...]:
        return (S3Blobs, (self.location,))

    def put(self, data: bytes) -> str:
        address = digest_bytes(data)
        self._create("content", address, data)
        return address

    def put_many(self, items: Sequence[bytes]) -> list[str]:
        with ThreadPoolExecutor(max_workers=_PARALLEL) as pool:
            return list(pool.map(self.put, items))

    def put_at(self, address: str, data: bytes) -> bool:
        self._require_conditions()
        return self._create("keyed", address, digest_bytes(data).encode("ascii") + b"\n" + data)

    def get(self, address: str) -> bytes:
        found = self._read(self._key("content", address))
        if found is not None:
            if digest_bytes(found[0]) != address:
                raise damaged(address)
            return found[0]
        found = self._read(self._key("keyed", address))
        if found is None:
            raise missing_blob(address, self)
        promised, _, data = found[0].partition(b"\n")
        if digest_bytes(data).encode("ascii") != promised:
            raise damaged(address)
        return data

    def has(self, address: str) -> bool:
        return any(self._size(self._key(kind, address)) is not None for kind in _BLOBS)

    def delete(self, address: str) -> bool:
        return any([self._erase(self._key(kind, address)) for kind in _BLOBS])

    def sweep(self) -> int:
        """Abort unfinished multipart uploads under the prefix: plumbline makes none, a tool that copies may."""
        removed = 0
        for upload in self._pages("list_multipart_uploads", ("Uploads",), Prefix=self._prefix):
            self._call(
                "abort_multipart_upload", absent=("NoSuchUpload",), Key=upload["Key"], UploadId=upload["UploadId"]
            )
            removed += 1
        return removed

    def put_pack(self, name: str, data: bytes) -> bool:
        self._require_conditions()
        return self._create("packs", name, data)

    def read_pack(self, name: str, offset: int, length: int) -> bytes:
        key = self._key("packs", name)
        if offset >= 0 and length > 0:
            found = self._read(key, Range=f"bytes={offset}-{offset + length - 1}")
            if found is not None and len(found[0]) == length:
                return found[0]
        size = self._size(key)
        if size is None:
            raise missing_pack(name, self)
        if length != 0 or not 0 <= offset <= size:
            raise outside(name, offset, length, size)
        return b""

    def view_pack(self, name: str) -> memoryview:
        """A copy of the whole object as it is now."""
        found = self._read(self._key("packs", name))
        if found is None:
            raise missing_pack(name, self)
        return memoryview(found[0])

    def overwrite_pack(self, name: str, patches: Sequence[tuple[int, bytes]]) -> None:
        self._require_known_versioning()
        self._require_conditions()
        key = self._key("packs", name)
        for _ in range(_ATTEMPTS):
            found = self._read(key)
            if found is None:
                raise missing_pack(name, self)
            data = bytearray(found[0])
            check_patches(name, patches, len(data))
            for offset, patch in patches:
                data[offset : offset + len(patch)] = patch
            if data == found[0] or self._write(key, bytes(data), IfMatch=found[1]):
                self._drop_versions(key, current=False)
                return
        raise PlumblineError(
            f"pack {name} was rewritten by somebody else {_ATTEMPTS} times over",
            consequence="the bytes to be overwritten are still in it",
            remedy="start the erasure again",
        )

    def delete_pack(self, name: str) -> bool:
        return self._erase(self._key("packs", name))

    def remains(self) -> tuple[str, ...]:
        try:
            found = self._call("get_bucket_replication", absent=("ReplicationConfigurationNotFoundError",))
        except S3Refused:
            return (f"bucket {self._bucket} may be replicated (grant s3:GetReplicationConfiguration to know)",)
        return () if found is None else (f"bucket {self._bucket} is replicated; erase in its copies too",)

    # --- requests ---------------------------------------------------------------------------------------------

    def _key(self, kind: Kind, address: str) -> str:
        return f"{self._prefix}{kind}/{digits(address)}"

    def _create(self, kind: Kind, address: str, data: bytes) -> bool:
        return self._write(self._key(kind, address), data, IfNoneMatch="*")

    def _write(self, key: str, data: bytes, **condition: str) -> bool:
        """False when the condition does not hold."""
        done = self._call("put_object", absent=("PreconditionFailed",), Key=key, Body=data, **condition)
        if done is None:
            return False
        if "VersionId" in done:
            self._versioned = True  # or it was switched on since this store was opened
        return True

    def _read(self, key: str, **part: str) -> tuple[bytes, str] | None:
        """An object's bytes and its tag; None when it is not there or the part lies outside of it."""
        for attempt in range(_ATTEMPTS):
            found = self._call("get_object", absent=("NoSuchKey", "InvalidRange"), Key=key, **part)
            if found is None:
                return None
            try:
                return found["Body"].read(), found["ETag"]
            except BotoCoreError as error:  # the body broke off after a good answer
                if attempt == _ATTEMPTS - 1:
                    raise self._fault(error) from error
        return None

    def _size(self, key: str) -> int | None:
        found = self._call("head_object", absent=("NoSuchKey", "404"), Key=key)
        return None if found is None else int(found["ContentLength"])

    def _erase(self, key: str) -> bool:
        self._require_known_versioning()
        if not self._versioned:
            if self._size(key) is None:
                return False
            done = self._call("delete_object", Key=key)
            if "VersionId" not in done:
                return True
            self._versioned = True
            self._drop_versions(key, current=True)
            return True
        return self._drop_versions(key, current=True)

    def _require_known_versioning(self) -> None:
        if self._versioned is None:
            raise S3Refused(
                f"it cannot be told whether bucket {self._bucket} keeps old versions",
                consequence="nothing was erased: the bytes could live on in one",
                remedy="grant s3:GetBucketVersioning (with versioning also s3:ListBucketVersions and"
                " s3:DeleteObjectVersion)",
            )

    def _drop_versions(self, key: str, *, current: bool) -> bool:
        """Delete the older versions of an object and, if asked, the current one, last. Whether there were any."""
        if not self._versioned:
            return False
        versions = [
            version
            for version in self._pages("list_object_versions", ("Versions", "DeleteMarkers"), Prefix=key)
            if version["Key"] == key and (current or not version["IsLatest"])
        ]
        for version in sorted(versions, key=lambda version: bool(version["IsLatest"])):
            self._call("delete_object", Key=key, VersionId=version["VersionId"])
        return bool(versions)

    def _ask_versioned(self) -> bool | None:
        """Whether old versions may exist; None when this user may not know. Fails when there is no such bucket."""
        try:
            found = self._call("get_bucket_versioning")
        except S3Refused:
            return None
        return found.get("Status") in ("Enabled", "Suspended")

    def _require_conditions(self) -> None:
        """Once per store: find out that the service keeps the conditions on which first-writer-wins rests."""
        if self._conditions_hold:
            return
        key = f"{self._prefix}probe/{secrets.token_hex(16)}"
        self._call("put_object", Key=key, Body=b"")
        ignored = self._write(key, b"", IfNoneMatch="*") or self._write(key, b"", IfMatch='"0"')
        if self._call("delete_object", Key=key).get("VersionId"):
            self._drop_versions(key, current=True)
        if ignored:
            raise PlumblineError(
                f"the S3 service of {self} ignores If-None-Match or If-Match",
                consequence="nothing was stored: of two writers, the second would replace the first unseen",
                remedy="use a service, or a newer version of it, that supports conditional writes",
            )
        self._conditions_hold = True

    def _pages(self, operation: str, names: Sequence[str], **parameters: str) -> Iterator[dict[str, Any]]:
        try:
            for page in self._client.get_paginator(operation).paginate(Bucket=self._bucket, **parameters):
                for name in names:
                    yield from page.get(name, ())
        except (BotoCoreError, ClientError) as error:
            raise self._fault(error) from error

    def _call(self, operation: str, *, absent: Sequence[str] = (), **parameters: Any) -> Any:
        """One request; None for the error codes in `absent`. Two conditional writes at once may get a 409: again."""
        for attempt in range(_ATTEMPTS):
            try:
                return getattr(self._client, operation)(Bucket=self._bucket, **parameters)
            except ClientError as error:
                code = error.response.get("Error", {}).get("Code", "")
                if code in absent:
                    return None
                if code not in _CONFLICT or attempt == _ATTEMPTS - 1:
                    raise self._fault(error) from error
                time.sleep(0.05 * 2**attempt)
            except BotoCoreError as error:
                raise self._fault(error) from error
        raise AssertionError("the loop returns or raises")

    def _fault(self, error: Exception) -> PlumblineError:
        code, status = "", 0
        if isinstance(error, ClientError):
            code = error.response.get("Error", {}).get("Code", "")
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        kind, fact, remedy = PlumblineError, f"S3 answered {code or error} for {self}", "check the service and its log"
        if code == "NoSuchBucket":
            fact, remedy = f"there is no bucket {self._bucket}", "make the bucket, or name another with --blobs"
        elif code == "RequestTimeTooSkewed":
            fact, remedy = f"the clock of this machine is too far from that of {self}", "set the clock (NTP)"
        elif status in (401, 403) or isinstance(error, NoCredentialsError):
            kind = S3Refused if code in ("AccessDenied", "403") else PlumblineError
            fact = f"S3 does not let this user in at {self}: {code or 'there are no credentials'}"
            remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or a role) that may do this in the bucket"
        elif isinstance(error, FlexibleChecksumError):
            fact = f"{self} sent other bytes than its own checksum promises, {_ATTEMPTS} times"
            remedy = "check the network and the service, restore the object from a backup"
        elif status == 507 or code in ("QuotaExceeded", "XMinioStorageFull"):
            fact, remedy = f"no space left at {self}", "free space or raise the quota"
        elif status >= 500 or status == 429 or not code:
            fact = f"S3 cannot be reached at {self}: {code or type(error).__name__} after {_ATTEMPTS} attempts"
            remedy = "check the network, AWS_ENDPOINT_URL and AWS_DEFAULT_REGION"
        return kind(
            fact,
            consequence="what was asked was not done; what is stored is intact",
            remedy=f"{remedy}, and start the same command again",
        )


class S3Refused(PlumblineError):
    """The credentials are good, but do not allow this."""
