"""`assay key`."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime
from pathlib import Path  # noqa: TC003  typer reads the annotations
from typing import Annotated

import tomli_w
import typer

from assay.api import keys
from assay.api.keys import NAME, RIGHTS, hashed
from assay.cli.app import app, stop
from assay.cli.terminal import err, out
from assay.errors import SettingsError

_BYTES = 32
_PREFIX = "assay_"  # so that one can search for keys that went where they shouldn't


@app.command("key")
def make_key(
    name: Annotated[str, typer.Argument(help="Whose key it is; it stands in the log.")],
    rights: Annotated[
        str, typer.Option(help="What it may, comma-separated: score, metrics, admin.")
    ] = "score",
    expires: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="From which day (UTC) it may not.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="The key file to add the entry to, in one step.")
    ] = None,
) -> None:
    """Make an API key: it is shown once, on standard error; the key file's entry is the output.

    `assay key trainer --file keys.toml` adds the entry to the file instead, and
    `key_file = "keys.toml"` in `assay.toml` names it. A running server reads the file again by
    itself. Two keys may have one name while one takes over from the other; remove an entry, and
    its key is refused.
    """
    requested = [part.strip() for part in rights.split(",")]
    if not re.fullmatch(NAME, name):
        raise typer.BadParameter("up to 64 letters, digits, '.', '_' and '-'", param_hint="NAME")
    if unknown := set(requested) - RIGHTS:
        raise typer.BadParameter(f"there is no right {min(unknown)!r}", param_hint="--rights")
    key = _PREFIX + secrets.token_urlsafe(_BYTES)
    entry: dict[str, object] = {"name": name, "hash": hashed(key), "rights": requested}
    if expires is not None:
        entry["expires"] = expires.replace(tzinfo=UTC)
    text = tomli_w.dumps({"keys": [entry]})
    said = text if file is None else f"{file} has it now, as {name!r}"
    try:
        if file is not None:
            keys.add(file, text)
    except SettingsError as error:
        stop(error)
    err.print(key)
    out.print(said)
