"""`rl_ros replay`: a recording into the live graph."""

import argparse
import tempfile
from pathlib import Path

from rl_ros.bringup import Supervisor
from rl_ros.contract import Contract
from rl_ros.episodes.bags import Bag, read_bag
from rl_ros.episodes.replay import as_played, played_topics, renames
from rl_ros.errors import UserError
from rl_ros.graph import GraphNode, alone, parse_arguments, resolve


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "replay",
        help="play a recording into the live graph",
        description="Play a bag into the live graph, with its own /clock, so that encoder, reward and policy answer to "
        "what was recorded. What answers an observation (actions, trajectories, rewards) is left to them unless "
        "--topics names it. `ros2 service call /replay/pause std_srvs/srv/SetBool '{data: true}'` pauses.",
    )
    parser.add_argument("bag", type=Path, metavar="BAG", help="a bag's directory or file")
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="KEY:=TOPIC",
        help="play a topic of the bag as that of a key of the contract, or /FROM:=/TO under any other name",
    )
    parser.add_argument("--rate", type=float, default=1.0, help="times as fast as recorded (default: %(default)s)")
    parser.add_argument("--start", type=float, default=0.0, metavar="S", help="skip so many seconds of the recording")
    parser.add_argument("--loop", action="store_true", help="begin again at the end, until Ctrl-C")
    parser.add_argument(
        "--topics", nargs="+", default=[], metavar="TOPIC", help="play these, as they are called when played"
    )
    parser.add_argument("--without", nargs="+", default=[], metavar="TOPIC", help="leave these out")
    parser.add_argument(
        "--wait-for", nargs="+", default=[], metavar="NODE", help="begin once these nodes have acknowledged"
    )
    parser.add_argument("--lossless", action="store_true", help="deliver every message, as a graph in lockstep does")
    parser.add_argument("--contract", help="name or path of a contract (default: the one in the bag)")
    parser.add_argument("--namespace", default="", help="of the graph, if it was started in one (namespace:=arm_1)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    bag = read_bag(options.bag)
    contract = _contract(bag, options.contract)
    held = {topic: kind for topic, (kind, _) in bag.topics.items()}
    names = renames(parse_arguments(options.arguments, "image:=/front/image_raw"), held, contract)
    recorded = {name: held[topic] for name, topic in as_played(held, names).items()}
    played_topics(recorded, contract, options.topics, options.without)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "contract.yaml"
        file.write_text(contract.to_yaml())
        parameters = {
            "contract": str(file),
            "bag": str(options.bag.resolve()),
            "rate": options.rate,
            "start": options.start,
            "loop": options.loop,
            "topics": " ".join(options.topics),
            "without": " ".join(options.without),
            "renames": " ".join(f"{topic}:={name}" for topic, name in names.items()),
            "wait_for": " ".join(options.wait_for),
            "lossless": options.lossless,
        }
        node = GraphNode("replay", parameters, stops_graph=True)
        resolved = resolve(alone("replay", {"replay": node}, options.namespace), {})
        with Supervisor(resolved, lambda line: print(line, flush=True), alone=False) as supervisor:
            return supervisor.wait()


def _contract(bag: Bag, name: str | None) -> Contract:
    contract = Contract.load(name) if name else bag.contract
    if contract is None:
        raise UserError(f"{bag.path}: embeds no contract; name one with --contract.")
    return contract
