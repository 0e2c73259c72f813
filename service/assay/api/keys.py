"""Who may ask what: API keys by name, and the right that each path needs.

`ASSAY_API_KEY` holds keys for everything but changes, `ASSAY_ADMIN_KEY` for everything. A key file
has names, rights and hashes instead, and is read again when it changes:

    [[keys]]
    name = "trainer"
    hash = "sha256:..."
    rights = ["score"]
    expires = 2027-01-31

Two entries may have one name: for a while both the old key and the new one are good.

Plain SHA-256 is enough for what `assay key` makes: salt and slowness make up for passwords that
people choose, and nobody finds 256 random bits by trying. Keys are compared by their digests, with
each that is known, so the time it takes tells nothing of any of them.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from assay import toml_file
from assay.errors import Forbidden, InternalError, SettingsError, Unauthorized, shown
from assay.scoring.offload import run_in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from pydantic import SecretStr

    from assay.settings import Settings
    from assay.telemetry.metrics import Metrics

Right = Literal["score", "metrics", "admin"]
RIGHTS: frozenset[Right] = frozenset(get_args(Right))
OPEN_ROUTES = frozenset(
    {
        *("/health", "/health/live", "/health/ready"),
        *("/ping", "/health_generate", "/v2/health/live", "/v2/health/ready"),  # others' probes
    }
)
NAME = r"^[A-Za-z0-9._-]{1,64}$"  # it stands in the log
LEAST_BYTES = 16  # of a key that other machines may try
_LOOK_AGAIN_S = 1.0
_METHOD = "sha256:"
logger = logging.getLogger("assay.keys")
audit = logging.getLogger("assay.audit")
audit.setLevel(logging.INFO)  # whatever the level of the rest


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it is known: never itself."""

    name: str
    digest: bytes
    rights: frozenset[Right]
    expires: datetime | None = None

    @property
    def has_expired(self) -> bool:
        """Whether it is known, and no longer good."""
        return self.expires is not None and self.expires <= datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Ring:
    """The keys that settings name, and the state of the file that some were read from."""

    settings: Settings
    keys: tuple[Key, ...]
    stamp: tuple[int, ...] | None

    @property
    def is_open(self) -> bool:
        """Whether anyone may score; a key file closes the door even where it is empty."""
        return not self.settings.api_key and self.settings.key_file is None

    def find(self, secret: bytes) -> Key | None:
        """Return the key that this is, compared with every one, whichever fits."""
        digest = hashlib.sha256(secret).digest()
        match = None
        for key in self.keys:
            if hmac.compare_digest(digest, key.digest):
                match = key
        return match


class Keys:
    """What one server's callers may do. With no key to score anyone may, for changes nobody."""

    def __init__(self, ring: Ring, on_unauthorized: Callable[[str], None] = lambda _: None) -> None:
        self._ring = ring
        self._on_unauthorized = on_unauthorized  # with what was wrong, as metrics name it

    @property
    def is_open(self) -> bool:
        """Whether anyone may score."""
        return self._ring.is_open

    def check(self, path: str, headers: Mapping[bytes, bytes]) -> str | None:
        """Let a request through and return its caller's name, or don't.

        Raises:
            Unauthorized: It has no key that is known and good.
            Forbidden: Its key isn't for that path.
        """
        ring = self._ring
        is_health = path in OPEN_ROUTES
        right = _right(path)
        secret = _key(headers)
        key = ring.find(secret)
        has_expired = key is not None and key.has_expired
        if is_health and ring.settings.open_health:
            return key.name if key is not None and not has_expired else None
        may = key is not None and (is_health or right in key.rights or _shows(path, key))
        if key is not None and may and not has_expired:
            return key.name
        if right == "admin":
            audit.warning("%r refused to %s", shown(path), key.name if key else "an unknown caller")
        elif ring.is_open:
            return None
        if has_expired:
            self._on_unauthorized("expired")
            raise Unauthorized("this API key has expired; send another one")
        if key is None and (ring.keys or not ring.is_open):
            self._on_unauthorized("unknown" if secret else "missing")
            raise Unauthorized("send a valid API key as 'Authorization: Bearer KEY'")
        if right == "admin" and not any("admin" in ring_key.rights for ring_key in ring.keys):
            raise Forbidden("changes are off; ASSAY_ADMIN_KEY or a key file allows them")
        raise Forbidden(f"this key hasn't the right '{right}'; send one that has")

    def shows_all(self, caller: str | None) -> bool:
        """Whether a caller may learn why all isn't well; without keys anyone may."""
        return caller is not None or (not self._ring.keys and self._ring.is_open)

    def check_change(self, ring: Ring) -> None:
        """Refuse to open a closed door: settings that got lost look like settings without keys.

        Raises:
            SettingsError: Only those with a key may score now, and anyone could then.
        """
        if ring.is_open and not self._ring.is_open:
            raise SettingsError(
                "they name no API key any more and would let anyone in; start the server again if "
                "that is meant",
                param="api_key",
            )

    def change(self, ring: Ring) -> None:
        """Let these keys hold from now on."""
        self._ring = ring

    async def watch(self, metrics: Metrics) -> None:
        """Read the key file again when it changes; a mistake in it changes nothing."""
        while True:
            await asyncio.sleep(_LOOK_AGAIN_S)
            before = self._ring
            if before.settings.key_file is None:
                continue
            look = partial(_look, before, before.settings.key_file)
            try:
                now, outcome = await run_in_daemon_thread(look)
            except Exception:
                # What nobody foresaw of one file must not end the watch: keys are revoked by it.
                logger.exception("the keys stay as they were, by a defect")
                now, outcome = before, InternalError.code
            if outcome:
                audit.info("%r: %s", str(before.settings.key_file), outcome)
                metrics.changed("key_file", outcome)
            if self._ring is before:
                self._ring = now


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, StringConstraints(pattern=NAME)]
    hash: Annotated[str, StringConstraints(pattern=rf"^{_METHOD}[0-9a-f]{{64}}$")]
    rights: Annotated[frozenset[Right], Field(min_length=1)]
    expires: datetime | None = None

    @property
    def key(self) -> Key:
        expires = self.expires
        if expires is not None and expires.tzinfo is None:
            expires = expires.replace(tzinfo=UTC)
        return Key(self.name, bytes.fromhex(self.hash.removeprefix(_METHOD)), self.rights, expires)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: tuple[_Entry, ...] = ()


def hashed(key: str) -> str:
    """Return what a key file keeps of a key."""
    return _METHOD + _digest(key).hex()


def read(settings: Settings) -> Ring:
    """Return every key that these settings name.

    Raises:
        SettingsError: The key file can't be read.
    """
    file = settings.key_file
    stamp = None if file is None else _stamp(file)  # before its content, which may change
    plain = [
        *_plain("api-key", settings.api_key, RIGHTS - {"admin"}),
        *_plain("admin-key", settings.admin_key, RIGHTS),
    ]
    return Ring(settings, (*plain, *(() if file is None else _of_file(file))), stamp)


def check_lengths(settings: Settings, *, is_exposed: bool) -> None:
    """Refuse keys that can be guessed where other machines may try; warn of them where none can.

    Raises:
        SettingsError: One is too short. Of those in a file only the hashes are known.
    """
    for name in ("api_key", "admin_key"):
        for number, key in enumerate(getattr(settings, name), 1):
            size = len(key.get_secret_value().encode())
            if size >= LEAST_BYTES:
                continue
            short = (
                f"number {number} of {name} has {size} bytes and can be guessed; beyond loopback "
                f"a key needs {LEAST_BYTES}: `assay key NAME` makes one"
            )
            if is_exposed:
                raise SettingsError(short, param=name)
            logger.warning(short)


def _look(ring: Ring, file: Path) -> tuple[Ring, str]:
    """Return the ring of now, and how the file was taken, where it had changed."""
    stamp = _stamp(file)
    if stamp == ring.stamp:
        return ring, ""
    try:
        now = read(ring.settings)
    except SettingsError as error:
        logger.error("the keys stay as they were: %s", error.message)  # noqa: TRY400
        return replace(ring, stamp=stamp), error.code
    logger.info("%s was read again: %d keys are known", file, len(now.keys))
    return now, "ok"


def _plain(kind: str, keys: Iterable[SecretStr], rights: frozenset[Right]) -> Iterator[Key]:
    for number, key in enumerate(keys, 1):
        yield Key(f"{kind}-{number}", _digest(key.get_secret_value()), rights)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _of_file(file: Path) -> Iterator[Key]:
    return _of_text(file, text_of(file))


def text_of(file: Path) -> str:
    """Return what stands in a key file.

    Raises:
        SettingsError: It can't be read.
    """
    try:
        return toml_file.content(file).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it isn't UTF-8"
        raise SettingsError(f"the key file {file} can't be read: {reason}") from None


def add(file: Path, entry: str) -> None:
    """Add an entry to a key file, which is made if there is none; it is never seen half written.

    Raises:
        SettingsError: It can't be read or written, or isn't a key file, or wouldn't be one.
    """
    file = file.resolve()
    before = text_of(file) if file.exists() else ""
    text = f"{before.rstrip()}\n\n{entry}" if before.strip() else entry
    list(_of_text(file, text))
    mode = file.stat().st_mode & 0o777 if before else 0o600
    beside = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        beside.touch(mode=0o600)
        beside.write_text(text, encoding="utf-8")
        beside.chmod(mode)
        beside.replace(file)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise SettingsError(f"the key file {file} can't be written: {error.strerror}") from None


def _of_text(file: Path, text: str) -> Iterator[Key]:
    try:
        content = _File.model_validate(toml_file.parsed(text))
    except ValidationError as error:  # without the input: it may be a key
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise SettingsError(f"the key file {file}: {place}: {first['msg']}") from None
    except ValueError as error:
        raise SettingsError(f"the key file {file} is not valid TOML: {error}") from None
    if len({entry.hash for entry in content.keys}) < len(content.keys):
        raise SettingsError(f"the key file {file}: two keys have the same hash")
    return (entry.key for entry in content.keys)


def _stamp(file: Path) -> tuple[int, ...] | None:
    """Return what differs once a file was written or replaced; None where there is none."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _right(path: str) -> Right:
    if path == "/admin" or path.startswith("/admin/"):
        return "admin"
    return "metrics" if path == "/metrics" else "score"


def _shows(path: str, key: Key) -> bool:
    """Whether who changes what is served looks at it: loading and unloading go by its names."""
    served = path.removeprefix("/v1")
    return "admin" in key.rights and (served == "/models" or served.startswith("/models/"))


def _key(headers: Mapping[bytes, bytes]) -> bytes:
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"").strip()
