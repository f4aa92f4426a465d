"""Finds the files that ship beside the code: configuration, launch files, robot descriptions, scenes."""

import os
import sys
from importlib import resources
from pathlib import Path

from rl_ros.errors import UserError


def share_directory() -> Path:
    """The directory that holds `config/`, `urdf/`, `sim/` and `launch/`.

    A source checkout (or an editable install) is found through importlib.resources, a colcon
    install through the ament index, and a pip install under the interpreter's own prefix.

    Raises:
        UserError: none of these places holds the files.
    """
    package = Path(str(resources.files("rl_ros")))
    candidates = [package.parent]
    for prefix in filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)):
        candidates.append(Path(prefix) / "share" / "rl_ros")
    candidates.append(Path(sys.prefix) / "share" / "rl_ros")
    for candidate in candidates:
        if (candidate / "config" / "nodes.yaml").is_file():
            return candidate
    tried = ", ".join(str(candidate) for candidate in candidates)
    raise UserError(f"the files of rl_ros (config/, urdf/, sim/) are in none of: {tried}; reinstall the package.")


def share_file(relative: str) -> Path:
    """Path of one shipped file, such as `config/contracts/lift.yaml`.

    Raises:
        UserError: the file is not shipped; the sentence lists its neighbours.
    """
    path = share_directory() / relative
    if not path.is_file():
        siblings = sorted(p.name for p in path.parent.glob("*")) if path.parent.is_dir() else []
        raise UserError(f"{relative} does not exist; {path.parent.name}/ holds: {', '.join(siblings) or 'nothing'}.")
    return path
