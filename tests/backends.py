"""The two pairs that the stores run on, for any room's tests: SQLite with a directory, PostgreSQL with S3.

    from backends import backend, blobs, ledger  # noqa: F401  (fixtures)

Both servers are real: PostgreSQL 15 from Debian's package, with fsync on, and moto's S3 server on the loopback. One
of each runs per test session, started when the first test asks; every test gets a schema and a bucket of its own.
"""

import atexit
import contextlib
import ctypes
import functools
import itertools
import os
import pwd
import secrets
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from plumbline.stores import BlobStore, Ledger
from plumbline.stores.blobs import open_blobs
from plumbline.stores.dialect import numbered

PROGRAMS = Path("/usr/lib/postgresql/15/bin")
MEMORY = Path("/dev/shm")
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Backend:
    """Where a test's ledger and blobs lie; both open with `Ledger` and `open_blobs`."""

    name: str
    ledger: Path | str
    blobs: Path | str

    def stored_blobs(self) -> dict[str, bytes]:
        """Every file or object under the blobs' place (older versions too) by its name there."""
        if isinstance(self.blobs, Path):
            return {
                str(path.relative_to(self.blobs)): path.read_bytes() for path in self.blobs.rglob("*") if path.is_file()
            }
        client, (bucket, prefix) = s3().client(), self.blobs.removeprefix("s3://").split("/", 1)
        found: dict[str, bytes] = {}
        for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix):
            for item in page.get("Versions", ()):
                read = client.get_object(Bucket=bucket, Key=item["Key"], VersionId=item["VersionId"])["Body"].read()
                name = item["Key"].removeprefix(f"{prefix}/")
                found[name if item["IsLatest"] else f"{name}@{item['VersionId']}"] = read
        return found

    def tamper(self, name: str, data: bytes) -> None:
        """Replace what is stored under a name that `stored_blobs` gave."""
        if isinstance(self.blobs, Path):
            (self.blobs / name).write_bytes(data)
        else:
            bucket, prefix = self.blobs.removeprefix("s3://").split("/", 1)
            s3().client().put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=data)

    def places_with(self, canary: bytes) -> list[str]:
        """Every file and object of ledger and blobs that holds these bytes: the log, indexes and free pages too.

        The PostgreSQL server is shared by all tests of a session, so let every test scan for a canary of its own.
        """
        folder = self.ledger.parent if isinstance(self.ledger, Path) else postgresql().folder
        blobs = {f"blob {name}": data for name, data in self.stored_blobs().items()}
        return [name for name, data in (_files(folder) | blobs).items() if canary in data]

    def outsider(self) -> "Outsider":
        """The database as somebody sees it who does not go through plumbline."""
        if self.name == "sqlite+local":
            return Outsider(sqlite3.connect(self.ledger, isolation_level=None))
        import psycopg

        return Outsider(psycopg.connect(str(self.ledger), autocommit=True, cursor_factory=psycopg.RawCursor))


def _files(folder: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a server at work may remove one
            if path.is_file():
                found[str(path)] = path.read_bytes()
    return found


class Outsider:
    """A bare connection with what the two databases say differently."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._sqlite = isinstance(connection, sqlite3.Connection)

    @property
    def refusal(self) -> type[Exception]:
        """What the database raises when a trigger or a constraint says no."""
        if self._sqlite:
            return sqlite3.IntegrityError
        import psycopg

        return psycopg.errors.IntegrityError

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        return self._connection.execute(sql if self._sqlite else numbered(sql), parameters)

    def triggers(self) -> dict[str, str]:
        """The table of each trigger, by the trigger's name."""
        if self._sqlite:
            return dict(self.execute("SELECT name, tbl_name FROM sqlite_master WHERE type = 'trigger'").fetchall())
        return dict(
            self.execute(
                "SELECT t.tgname, c.relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
                " WHERE NOT t.tgisinternal AND c.relnamespace = current_schema()::regnamespace"
            ).fetchall()
        )

    def drop_triggers(self, *names: str) -> None:
        """Those named, or all; foreign keys hold nobody back either, as in SQLite they do not unless asked to."""
        if not self._sqlite:
            self.execute("SET session_replication_role = replica")
        for name, table in self.triggers().items():
            if name in names or not names:
                self.execute(f"DROP TRIGGER {name}" + ("" if self._sqlite else f" ON {table}"))

    def schema(self) -> list[Any]:
        """Everything that a migration could change, as text that can be compared."""
        if self._sqlite:
            return list(self.execute("SELECT type, name, sql FROM sqlite_master ORDER BY type, name").fetchall())
        return [
            *self.execute(
                "SELECT table_name, column_name, data_type, is_nullable, collation_name, is_identity"
                " FROM information_schema.columns WHERE table_schema = current_schema() ORDER BY 1, 2"
            ).fetchall(),
            *self.execute(
                "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema() ORDER BY 1"
            ).fetchall(),
            *sorted(self.triggers().items()),
        ]

    def set_schema_version(self, version: int) -> None:
        if self._sqlite:
            self.execute(f"PRAGMA user_version = {version}")
        else:
            self.execute("UPDATE plumbline_schema SET version = ?", (version,))

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(params=["sqlite+local", "postgresql+s3"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    if request.param == "sqlite+local":
        yield Backend(request.param, tmp_path / "ledger.sqlite", tmp_path / "blobs")
        return
    server = postgresql()
    url = server.schema()
    yield Backend(request.param, url, s3().bucket())
    server.drop(url)


@pytest.fixture
def ledger(backend: Backend) -> Iterator[Ledger]:
    with Ledger(backend.ledger) as opened:
        yield opened


@pytest.fixture
def blobs(backend: Backend) -> BlobStore:
    return open_blobs(backend.blobs)


# --- PostgreSQL ---------------------------------------------------------------------------------------------------


def roomy() -> Path | None:
    """A file system in memory with 2 GiB to spare: a server syncs there in no time, and writes the same files."""
    return MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 2**31 else None


class PostgreSQLServer:
    """A server on a socket in a folder of its own, with the settings under which erasure promises most."""

    def __init__(self, **settings: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="plumbline-postgresql-", dir=roomy()))
        self.data = self.folder / "data"
        self._account = _unprivileged()
        if self._account is not None:
            os.chown(self.folder, self._account.pw_uid, self._account.pw_gid)
        self.settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "wal_recycle": "off",
            "max_wal_senders": "0",
            "wal_level": "minimal",
            "max_connections": "60",
            "shared_buffers": "32MB",
            "max_wal_size": "256MB",
            "min_wal_size": "32MB",
        } | settings
        names = ("--auth=trust", "--username=plumbline", "--encoding=UTF8")
        self._run("initdb", "--pgdata", str(self.data), "--no-sync", *names)
        self.start()

    def start(self) -> None:
        options = [item for name, value in self.settings.items() for item in ("-c", f"{name}={value}")]
        with (self.folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [PROGRAMS / "postgres", "-D", self.data, *options],
                stdout=output,
                stderr=output,
                preexec_fn=_end_with_parent,
                **self._as_user(),
            )
        deadline = time.monotonic() + 60
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start: {(self.folder / 'output').read_text()[-2000:]}")
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT ends every session and the server in order; SIGQUIT is a crash."""
        self._process.send_signal(how)
        self._process.wait(60)

    def remove(self) -> None:
        if self._process.poll() is None:
            self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, schema: str = "", **more: str) -> str:
        options = f"&options=-csearch_path%3D{schema}" if schema else ""
        rest = "".join(f"&{name}={value}" for name, value in more.items())
        return f"postgresql://plumbline@/postgres?host={self.folder}{options}{rest}"

    def schema(self) -> str:
        """The URL of a new, empty schema."""
        import psycopg

        name = f"test_{next(_numbers)}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}".encode())
        return self.url(name)

    def drop(self, url: str) -> None:
        """Remove a schema again, so that checkpoints and scans of later tests stay short."""
        import psycopg

        connection = psycopg.connect(self.url(), autocommit=True, options="-c lock_timeout=2s")
        with connection, contextlib.suppress(psycopg.Error):  # somebody left a transaction open: then it stays
            connection.execute(f"DROP SCHEMA {url.rpartition('%3D')[2]} CASCADE".encode())

    def _answers(self) -> bool:
        import psycopg

        with contextlib.suppress(psycopg.Error):
            psycopg.connect(self.url()).close()
            return True
        return False

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [PROGRAMS / program, *arguments], capture_output=True, text=True, check=False, **self._as_user()
        )
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stdout[-1000:]}{done.stderr[-1000:]}")

    def _as_user(self) -> dict[str, Any]:
        environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": str(self.folder)}
        rest: dict[str, Any] = {"env": environment, "cwd": self.folder}
        if self._account is not None:
            rest |= {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": []}
        return rest


def _unprivileged() -> pwd.struct_passwd | None:
    """PostgreSQL refuses to run as root: then as the package's own user."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _end_with_parent() -> None:
    """Should the tests be killed, the kernel ends the server in order."""
    ctypes.CDLL(None).prctl(1, signal.SIGINT)


@functools.cache
def _postgresql() -> PostgreSQLServer | str:
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "psycopg is not installed: pip install 'plumbline[postgresql]'"
    if not (PROGRAMS / "postgres").exists():
        return f"PostgreSQL 15 is not at {PROGRAMS}: `make tools` as root on Debian installs it"
    server = PostgreSQLServer()
    atexit.register(server.remove)
    return server


def postgresql() -> PostgreSQLServer:
    """The session's server; the test skips, saying why, where there is none."""
    server = _postgresql()
    if isinstance(server, str):
        pytest.skip(server)
    return server


# --- S3 -----------------------------------------------------------------------------------------------------------


class S3Server:
    """moto's server in a thread, answering on the loopback as an S3 service does."""

    def __init__(self) -> None:
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.endpoint = f"http://{host}:{port}"
        os.environ |= {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def client(self) -> Any:
        import boto3

        return boto3.client("s3", endpoint_url=self.endpoint)

    def bucket(self, *, versioned: bool = False) -> str:
        """The URL of a new, empty bucket, with a prefix."""
        name = f"test-{secrets.token_hex(6)}"
        client = self.client()
        client.create_bucket(Bucket=name)
        if versioned:
            client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        return f"s3://{name}/blobs"

    def stop(self) -> None:
        self._server.stop()


@functools.cache
def _s3() -> S3Server | str:
    try:
        import boto3  # noqa: F401
        import moto.server  # noqa: F401
    except ImportError as error:
        return f"{error.name} is not installed: pip install 'plumbline[s3]' 'moto[server]'"
    server = S3Server()
    atexit.register(server.stop)
    return server


def s3() -> S3Server:
    """The session's S3 server; the test skips, saying why, where there is none."""
    server = _s3()
    if isinstance(server, str):
        pytest.skip(server)
    return server
