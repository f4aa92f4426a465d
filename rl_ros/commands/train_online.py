"""`rl_ros train --online`: a policy from bags that are still being recorded."""

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rl_ros.bringup import Supervisor
from rl_ros.commands.console import OFFLINE, refuse
from rl_ros.contract import Contract
from rl_ros.errors import UserError
from rl_ros.graph import Graph, GraphNode, resolve
from rl_ros.training.bundle import Bundle, load_bundle


def add_online(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of learning online."""
    online = parser.add_argument_group(
        "online",
        "Learn from bags as they land, beside a running graph: every few episodes a bundle is written, RUN/bundle "
        "names the newest, and the graph's policy becomes it. Without --updates until Ctrl-C.",
    )
    online.add_argument("--online", action="store_true", help="learn from bags as they land")
    online.add_argument(
        "--continue", dest="continue_from", metavar="BUNDLE", help="begin with this bundle, and mix its bags in"
    )
    online.add_argument(
        "--old-share", type=float, default=0.5, metavar="SHARE", help="of each batch from its bags (default: 0.5)"
    )
    online.add_argument("--updates-per-episode", type=int, default=100, help="that a new one earns (default: 100)")
    online.add_argument("--export-every", type=int, default=10, help="episodes between bundles (default: 10)")
    online.add_argument("--start-after", type=int, default=20, help="episodes before the first update (default: 20)")


def run_online(options: argparse.Namespace, settings: Mapping[str, Any], contract: Contract | None) -> int:
    """Run the trainer node until it ends or is interrupted.

    Args:
        options: of the command line.
        settings: of the algorithm.
        contract: of the bags, if there are any yet or one was named.

    Raises:
        UserError: nobody says which algorithm or what the bags mean, or an option belongs to offline training.
    """
    why = "--online learns from bags as they are, with --updates or until Ctrl-C"
    refuse(options, (*OFFLINE, "seconds", "grasps"), why)
    bundle = load_bundle(options.continue_from) if options.continue_from else None
    contract = _contract(contract, bundle)
    algorithm = options.algorithm or (bundle.algorithm if bundle else "")
    if not algorithm:
        raise UserError("give the --algorithm to learn with, or a bundle to --continue.")
    encoder = options.encoder
    if encoder is None and bundle and bundle.encoder:
        encoder = bundle.image_encoder().directory
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "contract.yaml"
        file.write_text(contract.to_yaml())
        parameters = {
            "contract": str(file),
            "algorithm": algorithm,
            "bags": str(options.bags),
            "run": str(options.out),
            "continue_from": options.continue_from or "",
            "updates_per_episode": options.updates_per_episode,
            "export_every": options.export_every,
            "old_share": options.old_share,
            "start_after": options.start_after,
            "encoder": str(encoder or ""),
            "updates": options.updates or 0,
            "cpu_share": 1.0,
            "seed": options.seed,
            "device": options.device,
            "settings": json.dumps(dict(settings)),
        }
        graph = Graph("train", nodes={"trainer": GraphNode("trainer", parameters, stops_graph=True)})
        with Supervisor(resolve(graph, {}), lambda line: print(line, flush=True), alone=False) as supervisor:
            status = supervisor.wait()
    if status == 0:
        print(f"policy bundle: {options.out / 'bundle'}")
    return status


def _contract(contract: Contract | None, bundle: Bundle | None) -> Contract:
    if contract is None and bundle is not None:
        contract = bundle.contract
    if contract is None:
        raise UserError("there is no bag yet to say what the bags mean; name a --contract.")
    return contract
