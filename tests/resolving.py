"""What settings name, resolved in this process instead of one that may be killed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.prompts import resolution
from assay.scoring import assembly, targets

if TYPE_CHECKING:
    from assay.scoring.targets import Targets
    from assay.settings import Settings


def load(settings: Settings, *, is_calibrated: bool = True) -> Targets:
    """Return what is served by these settings."""
    resolve_settings = targets.resolve_settings(settings)
    resolved = (resolution.resolve(reference, resolve_settings)[0] for reference in settings.models)
    return assembly.assemble(settings, resolved, is_calibrated=is_calibrated)
