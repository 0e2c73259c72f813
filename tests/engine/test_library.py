"""The attention kernel's library: found without a compiler, loaded if nobody else wrote it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from assay.engine.attention import library, native

CPU = torch.device("cpu")
# What a process says whose installation has its libraries at a place of ours.
PROGRAM = """
import sys
sys.prefix = sys.argv[1]
import numpy as np
import torch
from assay.engine.attention import library, native
from assay.engine.attention.pattern import Pattern
from assay.engine.packing import pack
from assay.worker_protocol import PrefixBatch

is_made = library.is_made()
if native.is_available(torch.device("cpu"), torch.float32):
    rows = torch.randn(2, 40, 16, generator=torch.Generator().manual_seed(1))
    runs = pack(PrefixBatch.unshared([np.zeros(24, np.int32), np.zeros(16, np.int32)]))
    mixed = native.attend(rows, rows, rows, runs, Pattern(scale=0.25, causal=True))
    print(is_made, mixed.numpy().tobytes().hex())
else:
    print(is_made, "nothing")
"""
FLAGS = {"avx2": "-march=x86-64-v3", "avx512": "-march=x86-64-v4"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A library that was compiled for this processor, in a folder of its own."""
    root = tmp_path_factory.mktemp("kept")
    assert native.is_available(CPU, torch.float32)
    known = os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache/assay/extensions"
    folder = root / "assay_forest_attention"
    name = library._name(torch.backends.cpu.get_cpu_capability())
    folder.mkdir(mode=0o700)
    shutil.copy(Path(known) / folder.name / name, folder)
    return folder / name


@pytest.fixture
def prefix(tmp_path, made):
    """An installation that ships the library."""
    folder = tmp_path / "prefix/share/assay/kernels"
    folder.mkdir(parents=True, mode=0o755)
    Path(shutil.copy(made, folder)).chmod(0o755)
    return tmp_path / "prefix"


def said(tmp_path, prefix, kept=None):
    """Return what such a process says, without a compiler, and what it warns of."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(prefix)],
        env=os.environ | {"PATH": str(tmp_path), "TORCH_EXTENSIONS_DIR": str(kept or tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split(), done.stderr


def test_a_library_that_is_shipped_or_kept_needs_no_compiler(tmp_path, prefix, made):
    """Either gives the same bits."""
    shipped, nothing_said = said(tmp_path, prefix)
    kept, _ = said(tmp_path, tmp_path / "nothing", made.parents[1])

    assert shipped[0] == "True"
    assert len(shipped[1]) == 2 * 40 * 2 * 16 * 4
    assert shipped == kept
    assert nothing_said == ""


def test_without_a_library_and_a_compiler_a_line_says_so(tmp_path):
    """And torch's products are used."""
    found, warned = said(tmp_path, tmp_path / "nothing")

    assert found == ["False", "nothing"]
    assert "can't be compiled" in warned


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_folder_that_others_can_write_is_not_loaded_from(tmp_path, prefix, mode):
    """Nor is one compiled there."""
    (prefix / "share/assay/kernels").chmod(mode)
    kept = tmp_path / "kept"
    (kept / "assay_forest_attention").mkdir(parents=True)
    (kept / "assay_forest_attention").chmod(mode)

    found, warned = said(tmp_path, prefix, kept)

    assert found == ["True", "nothing"]
    assert f"kernels can be written by others (mode {mode:04o})" in warned
    assert f"assay_forest_attention can be written by others (mode {mode:04o})" in warned
    assert list((kept / "assay_forest_attention").iterdir()) == []


def test_a_library_that_others_can_write_is_not_loaded(tmp_path, prefix):
    """Though its folder is ours."""
    (file,) = (prefix / "share/assay/kernels").iterdir()
    file.chmod(0o757)

    assert said(tmp_path, prefix)[0] == ["True", "nothing"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_somebody_elses_library_is_not_loaded(tmp_path, prefix):
    """Its owner may put anything there."""
    (file,) = (prefix / "share/assay/kernels").iterdir()
    os.chown(file, 12_345, -1)

    found, warned = said(tmp_path, prefix)

    assert found == ["True", "nothing"]
    assert "belongs to another user (uid 12345)" in warned


def test_an_image_gets_a_library_for_every_processor(tmp_path, monkeypatch):
    """By one command, with the compiler that is named: not for the building machine alone."""
    compiler = tmp_path / "compiler"
    compiler.write_text(
        '#!/bin/sh\necho "$@" > "$(echo "$@" | sed "s/.* -o \\([^ ]*\\) .*/\\1/")"\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr(sys, "argv", ["library", str(tmp_path / "kernels")])
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    library.main()
    assert list((tmp_path / "kernels").iterdir()) == []

    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    library.main()

    files = sorted((tmp_path / "kernels").iterdir())
    assert [file.name.split("-")[1] for file in files] == sorted(FLAGS)
    assert len({file.name.split("-")[2] for file in files}) == 2
    for file in files:
        command = file.read_text()
        assert FLAGS[file.name.split("-")[1]] in command.split()
        assert "-march=native" not in command
        assert file.stat().st_mode & 0o022 == 0
