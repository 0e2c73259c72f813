"""What of the settings a file's scoring loads."""

import pytest

from assay.cli.bulk_job import alone
from assay.settings import load

TABLES = {
    "models": ["starter"],
    "names": {"judge": "/models/judge"},
    "aliases": {"strict": "judge"},
    "ensembles": {"both": ["judge", "starter/member-1"]},
    "calibrations": {"strict": "strict.toml", "starter": "starter.toml"},
}


@pytest.mark.parametrize(
    ("target", "models", "names", "calibrations"),
    [
        ("judge", ("/models/judge",), {"judge": "/models/judge"}, {"strict": "strict.toml"}),
        ("starter", ("starter",), {}, {"starter": "starter.toml"}),
        ("/models/another", ("/models/another",), {}, {}),
    ],
)
def test_one_model_is_loaded_alone_and_called_as_it_is_named(target, models, names, calibrations):
    """With what was fitted for it; what combines it with others is left out."""
    settings, _ = load(TABLES)

    found = alone(settings, target)

    assert (found.models, found.names, found.ensembles) == (models, names, {})
    assert {name: str(path) for name, path in found.calibrations.items()} == calibrations
