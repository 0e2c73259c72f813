"""Which devices `device` means, with a stand-in for how many GPUs there are."""

import pytest

from assay.scheduling import devices


@pytest.mark.parametrize(
    ("wanted", "gpus", "expected"),
    [
        (["auto"], 0, ("auto",)),
        (["auto"], 1, ("cuda:0",)),
        (["auto"], 4, ("cuda:0", "cuda:1", "cuda:2", "cuda:3")),
        (["cuda:1", "auto"], 2, ("cuda:1", "cuda:0")),
        (["cuda:0", "auto"], 1, ("cuda:0",)),
        (["cpu", "auto"], 2, ("cpu", "cuda:0", "cuda:1")),
        (["cpu", "cpu"], 2, ("cpu", "cpu")),
        (["cuda:3"], 8, ("cuda:3",)),
    ],
)
def test_auto_is_every_visible_gpu(wanted, gpus, expected):
    """One worker each; what is named is taken as named, and twice only where it is named so."""
    assert devices.expand(wanted, lambda: gpus) == expected


def test_gpus_are_counted_only_where_they_matter():
    """Counting starts a process with torch: seconds that named devices don't cost."""

    def count():
        raise AssertionError

    assert devices.expand(["cpu"], count) == ("cpu",)


def test_gpus_are_counted_by_torch(monkeypatch, tmp_path):
    """In a process of its own, where a driver shows; here there is none to be seen."""
    assert devices.gpus() == 0
    monkeypatch.setattr(devices, "_DRIVERS", (str(tmp_path),))
    assert devices.gpus() == 0
