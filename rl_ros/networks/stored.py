"""Directories of files and a description of them: what policies and image encoders are on disk.

The description is JSON and holds a format and the SHA-256 of each file, which tells damage. All of it may come from
strangers: sizes and types are looked at before anything is made of them, and nothing is ever unpickled.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rl_ros.errors import UserError

FILE_LIMIT, DESCRIPTION_LIMIT = 1 << 31, 1 << 26
"""Bytes of a file, and of a description."""


def read_directory(
    directory: Path, description: str, names: Collection[str], version: int, kind: str, optional: Collection[str] = ()
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Read a directory, and verify that each file is the one that was saved.

    Args:
        directory: where it is.
        description: the name of the file that describes it.
        names: of the other files.
        version: the format that is read.
        kind: what it is, for sentences, such as `policy bundle`.
        optional: names of files that may be missing, from the description too.

    Returns:
        What the description says, of which only `format` and `sha256` are checked, and the other files.

    Raises:
        UserError: the directory or a file in it is missing or damaged, or of another format.
    """
    if not directory.is_dir():
        raise UserError(f"{directory}: there is no such {kind}; `rl_ros train` makes one.")
    text = _read(directory / description, DESCRIPTION_LIMIT, kind)
    again = f"copy or train the {kind} again"
    try:
        data = json.loads(text)
        found, hashes = data["format"], data.get("sha256", {})
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{directory / description}: damaged; {again}.") from error
    if found != version:
        raise UserError(f"{directory}: a {kind} of format {found!r}; this version of rl_ros reads format {version}.")
    if not isinstance(hashes, dict):
        raise UserError(f"{directory / description}: damaged (sha256 is no dict); {again}.")
    files = {}
    for name in (*names, *(name for name in optional if name in hashes)):
        files[name] = _read(directory / name, FILE_LIMIT, kind)
        if hashlib.sha256(files[name]).hexdigest() != hashes.get(name):
            raise UserError(f"{directory / name}: damaged (its SHA-256 is not the one saved); {again}.")
    return data, files


def write_directory(
    directory: Path,
    description: str,
    data: Mapping[str, Any],
    files: Mapping[str, bytes],
    copied: Mapping[str, Path] | None = None,
) -> None:
    """Write a directory; an older one of that name is replaced, and a reader finds a whole one or none.

    Args:
        directory: where it will be.
        description: the name of the file that describes it.
        data: what that file says; the SHA-256 of each file is added.
        files: the other files, by name.
        copied: directories to copy into it, by name.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    unfinished = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        for name, content in files.items():
            (unfinished / name).write_bytes(content)
        (unfinished / description).write_text(json.dumps({**data, "sha256": hashes}, indent=1) + "\n")
        for name, source in (copied or {}).items():
            shutil.copytree(source, unfinished / name)
        unfinished.chmod(0o755)
        if directory.exists():
            older = Path(tempfile.mkdtemp(prefix=f".{directory.name}-older-", dir=directory.parent))
            os.replace(directory, older)
            os.replace(unfinished, directory)
            shutil.rmtree(older)
        else:
            os.replace(unfinished, directory)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _read(path: Path, limit: int, kind: str) -> bytes:
    if not path.is_file():  # nor is a link to a device
        raise UserError(f"{path}: missing, so the {kind} is not whole; copy or train it again.")
    if path.stat().st_size > limit:
        raise UserError(f"{path}: larger than {limit >> 20} MB; no file of a {kind} is.")
    return path.read_bytes()
