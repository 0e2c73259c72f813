"""`assay config`."""

from assay.cli.app import Config, Json, app, loaded
from assay.cli.terminal import table
from assay.settings import Settings


@app.command("config")
def show_config(as_json: Json = False, config: Config = None) -> None:
    """Print the effective settings, where each came from and what it means."""
    settings, origins = loaded({}, config)
    rows = [
        (name, str(getattr(settings, name)), origins[name], field.description or "")
        for name, field in Settings.model_fields.items()
    ]
    table(("setting", "value", "from", "meaning"), rows, as_json=as_json)
