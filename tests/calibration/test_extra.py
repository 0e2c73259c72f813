"""The libraries of the extra `calibrate`."""

import pytest

from assay.calibration import extra
from assay.errors import SettingsError


def test_a_library_that_is_missing_is_said_with_its_extra():
    """Before anything is scored."""
    with pytest.raises(SettingsError, match=r"needs 'no_such_library'; .*'assay-rm\[calibrate\]'"):
        extra.check("no_such_library")
