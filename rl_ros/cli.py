"""The `rl_ros` command."""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from keyword import iskeyword
from types import FrameType

import rl_ros
from rl_ros.errors import UserError

COMMANDS = (
    "up",
    "preflight",
    "goal",
    "collect",
    "ingest",
    "relabel",
    "audit",
    "replay",
    "algorithms",
    "train",
    "evaluate",
    "doctor",
    "compare",
    "report",
    "info",
    "export",
    "import",
    "demo",
)
"""Modules of rl_ros.commands, in the order of the help."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. A mistake of the user's is one sentence and status 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGTERM, _on_terminate)
    try:
        parser = _parser(given)
        options, rest = parser.parse_known_args(given)
        # argparse takes key:=value arguments on one side of an option only; people write them on both.
        if rest and not (hasattr(options, "arguments") and all(":=" in text for text in rest)):
            parser.error(f"unrecognised arguments: {' '.join(rest)}")
        if rest:
            options.arguments += rest
        status: int = options.run(options)
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        # What the user named cannot be read or written. One that names no file is no mistake of the user's.
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}; check the path and its permissions.", file=sys.stderr)
        return 2


def _on_terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parser(given: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rl_ros",
        description="From a rosbag to a policy on the robot: record, train, deploy and judge policies over ROS 2.",
        epilog="The ROS domain is taken from ROS_DOMAIN_ID, as everywhere in ROS 2.",
    )
    parser.add_argument("--version", action="version", version=f"rl_ros {rl_ros.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    # A command that is named alone is imported alone: others bring torch or onnxruntime with them.
    named = [name for name in given[:1] if name in COMMANDS]
    for name in named or COMMANDS:
        # `import` is a word of Python's: the module is import_.
        module = importlib.import_module(f"rl_ros.commands.{name}{'_' if iskeyword(name) else ''}")
        module.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
