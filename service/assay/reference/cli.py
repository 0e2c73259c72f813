"""docs/cli.md: every command of `assay` with its arguments and options, from the program itself."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import typer.main

from assay.cli import app
from assay.reference.schema import code, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    import click


def markdown() -> str:
    """Return a section for each command."""
    return "\n\n".join(_section(name, one) for name, one in commands().items()) + "\n"


def commands() -> dict[str, click.Command]:
    """Return the commands by name."""
    root = typer.main.get_command(app)
    found: dict[str, click.Command] = getattr(root, "commands")  # noqa: B009  a group has them
    return found


def options(command: click.Command) -> Iterator[tuple[str, click.Parameter]]:
    """Yield a command's arguments and options, each as it is typed."""
    for one in command.params:
        yield (", ".join(one.opts) if one.param_type_name == "option" else metavar(one)), one


def metavar(parameter: click.Parameter) -> str:
    """Return what stands for a parameter's value: nothing for a switch."""
    if getattr(parameter, "is_flag", False):
        return ""
    return str(parameter.metavar or parameter.name).upper()


def _section(name: str, command: click.Command) -> str:
    said = inspect.cleandoc(command.help or "")
    rows = [
        [code(f"{typed} {metavar(one)}".strip() if typed.startswith("-") else typed), _said(one)]
        for typed, one in options(command)
    ]
    return f"### `assay {name}`\n\n{said}\n\n{table(('option', 'meaning'), rows)}"


def _said(parameter: click.Parameter) -> str:
    said: str = getattr(parameter, "help", "") or ""
    default = parameter.default
    is_said = parameter.required or default in (None, False, [], ()) or callable(default)
    return said if is_said else f"{said} Default `{default}`."
