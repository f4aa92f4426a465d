"""`python -m rl_ros.nodes NODE... --ros-args ...`: the named nodes in one process."""

import sys

from rl_ros.graph import node_specs
from rl_ros.nodes.spin import run


def main() -> int:
    """Run the nodes named before `--ros-args`."""
    arguments = sys.argv[1:]
    names = arguments[: arguments.index("--ros-args")] if "--ros-args" in arguments else arguments
    unknown = [name for name in names if name not in node_specs()]
    if not names or unknown:
        print(f"error: expected nodes out of: {', '.join(node_specs())}; got: {' '.join(names) or 'none'}.")
        return 2
    return run(names, sys.argv)


if __name__ == "__main__":
    sys.exit(main())
