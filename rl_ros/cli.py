"""The `rl_ros` command."""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.tree import Tree

import rl_ros
from rl_ros.contract import Contract
from rl_ros.episodes.bags import find_bags, read_bag
from rl_ros.episodes.ingest import read_episode, read_episodes
from rl_ros.episodes.memory import Episode, ReplayMemory
from rl_ros.errors import UserError
from rl_ros.graph import ResolvedGraph, load_graph, parse_arguments, qos, resolve
from rl_ros.training.live import Results, run_episodes

console = Console()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. A mistake of the user's is one sentence and status 2."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    # argparse takes key:=value arguments on one side of an option only; people write them on both.
    if rest and not (hasattr(options, "arguments") and all(":=" in text for text in rest)):
        parser.error(f"unrecognised arguments: {' '.join(rest)}")
    if rest:
        options.arguments += rest
    signal.signal(signal.SIGTERM, _on_terminate)
    try:
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


def _on_terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rl_ros",
        description="From a rosbag to a policy on the robot: record, train, deploy and judge policies over ROS 2.",
        epilog="The ROS domain is taken from ROS_DOMAIN_ID, as everywhere in ROS 2.",
    )
    parser.add_argument("--version", action="version", version=f"rl_ros {rl_ros.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    up = commands.add_parser(
        "up",
        help="start a graph of nodes, as `ros2 launch` would",
        description="Start a graph of nodes and stay in front until it ends or Ctrl-C stops it.",
    )
    up.add_argument("graph", help="a graph in config/graphs, such as grasp")
    up.add_argument("arguments", nargs="*", metavar="key:=value", help="arguments of the graph; --dry-run shows them")
    up.add_argument("--dry-run", action="store_true", help="print what would be started, and start nothing")
    up.set_defaults(run=_up)

    collect = commands.add_parser(
        "collect",
        help="record episodes of the scripted expert or of a policy",
        description="Run episodes in lockstep and record each as one MCAP bag. New bags are numbered after old ones.",
    )
    collect.add_argument("graph", help="a graph in config/graphs, such as grasp")
    collect.add_argument("--episodes", type=_positive, default=100, help="how many (default: %(default)s)")
    collect.add_argument("--bags", type=Path, required=True, metavar="DIR", help="where the bags go")
    collect.add_argument("--seed", type=int, default=0, help="seed of the first episode (default: %(default)s)")
    collect.add_argument("--noise", type=float, default=1.0, help="scale of the expert's errors (default: %(default)s)")
    collect.add_argument("--policy", default="", metavar="BUNDLE", help="a policy bundle instead of the expert")
    collect.add_argument("--randomise", action="store_true", help="vary the looks of the scene between episodes")
    collect.set_defaults(run=_collect)

    train = commands.add_parser(
        "train",
        help="train a policy from bags",
        description="Train a policy offline, from bags alone, and export it as RUN/bundle.",
    )
    train.add_argument("--algorithm", required=True, metavar="NAME", help="bc or iql")
    train.add_argument("--bags", type=Path, required=True, metavar="DIR", help="bags to learn from")
    train.add_argument("--out", type=Path, required=True, metavar="RUN", help="directory of the run")
    length = train.add_mutually_exclusive_group(required=True)
    length.add_argument("--seconds", type=float, help="train for so long")
    length.add_argument(
        "--updates", type=_positive, help="train for so many updates; the same seed gives the same bits"
    )
    train.add_argument("--seed", type=int, default=0, help="of weights and batches (default: %(default)s)")
    train.add_argument("--contract", help="name or path of a contract (default: the one in the first bag)")
    train.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the algorithm")
    train.set_defaults(run=_train)

    evaluate = commands.add_parser(
        "evaluate",
        help="run a policy in live episodes and count successes",
        description="Run a policy in fresh episodes on the live graph, in lockstep. The last line is one JSON object.",
    )
    evaluate.add_argument("run_directory", nargs="?", type=Path, metavar="RUN", help="a run of `rl_ros train`")
    evaluate.add_argument("--policy", type=Path, metavar="BUNDLE", help="a policy bundle instead of a run")
    evaluate.add_argument("--graph", default="grasp", help="a graph in config/graphs (default: %(default)s)")
    evaluate.add_argument("--episodes", type=_positive, default=50, help="how many (default: %(default)s)")
    evaluate.add_argument("--seed", type=int, default=100_000, help="seed of the first episode (default: %(default)s)")
    evaluate.add_argument("--out", type=Path, metavar="DIR", help="where results go (default: RUN/evaluation)")
    evaluate.add_argument("--bags", type=Path, metavar="DIR", help="record the episodes there")
    evaluate.set_defaults(run=_evaluate)

    report = commands.add_parser("report", help="write report.html of a run", description="Write RUN/report.html.")
    report.add_argument("run_directory", type=Path, metavar="RUN", help="a directory that `rl_ros demo` left")
    report.set_defaults(run=_report)

    info = commands.add_parser(
        "info", help="say what is in a bag", description="Say what is in a bag: topics, outcome, contract, damage."
    )
    info.add_argument("bag", type=Path, metavar="BAG", help="a bag's directory or its .mcap file")
    info.set_defaults(run=_info)

    demo = commands.add_parser(
        "demo",
        help="the whole loop: record, train, deploy, report",
        description="Record grasps of a noisy expert, train bc and iql from the bags, run both live, write a report.",
    )
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="(default: %(default)s)")
    demo.add_argument("--episodes", type=_positive, default=600, help="to record (default: %(default)s)")
    demo.add_argument("--seconds", type=float, default=120.0, help="of training (default: %(default)s)")
    demo.add_argument("--evaluations", type=_positive, default=50, help="episodes per policy (default: %(default)s)")
    demo.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    demo.set_defaults(run=_demo)
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


def _up(options: argparse.Namespace) -> int:
    from rl_ros.bringup import Supervisor

    graph = load_graph(options.graph)
    resolved = resolve(graph, parse_arguments(options.arguments))
    if options.dry_run:
        table = Table("argument", "default", "what for", title=f"arguments of {graph.name}", title_justify="left")
        for name, argument in graph.arguments.items():
            choices = f" ({', '.join(argument.choices)})" if argument.choices else ""
            table.add_row(name, repr(argument.default), argument.description + choices)
        console.print(table)
        console.print(_graph_tree(resolved))
        return 0
    with Supervisor(resolved, lambda line: print(line, flush=True)) as supervisor:
        return supervisor.wait()


def _graph_tree(graph: ResolvedGraph) -> Tree:
    tree = Tree(f"graph {graph.name}: {len(graph.processes)} processes, {len(graph.nodes)} nodes")
    for process, nodes in graph.processes.items():
        branch = tree.add(f"process {process}")
        for node in nodes:
            leaf = branch.add(f"node {node.name}" + (" (the graph ends with it)" if node.stops_graph else ""))
            parameters = leaf.add("parameters")
            for name, value in node.parameters.items():
                parameters.add(f"{name}: {value!r}")
            if node.remaps:
                remaps = leaf.add("remaps")
                for old, new in node.remaps.items():
                    remaps.add(f"{old} -> {new}")
            for title, endpoints in (("publishes", node.publishes), ("subscribes", node.subscribes)):
                if endpoints:
                    topics = leaf.add(title)
                    for endpoint in endpoints:
                        profile = qos(endpoint.qos, graph.lossless)
                        topics.add(f"/{endpoint.topic.lstrip('/')}  {endpoint.type}  ({profile})")
    return tree


def _collect(options: argparse.Namespace) -> int:
    results = collect(
        options.graph, options.episodes, options.bags, options.seed, options.noise, options.policy, options.randomise
    )
    _show(results.summary(), f"{options.graph}: recorded in {options.bags}")
    return 0


def collect(
    graph: str, episodes: int, bags: Path, seed: int, noise: float, policy: str = "", randomise: bool = False
) -> Results:
    """Record episodes, numbered and seeded after those that are there already."""
    numbers = [int(path.name.split("_")[1].split(".")[0]) for path in bags.glob("episode_*")]
    first = max(numbers, default=-1) + 1
    arguments = {
        "bags": str(bags.resolve()),
        "seed": str(seed + first),
        "first_episode": str(first),
        "expert_noise": str(noise),
        "policy": str(Path(policy).resolve()) if policy else "",
        "randomise": str(randomise).lower(),
    }
    with _episode_bar("recording", episodes) as advance:
        return run_episodes(graph, arguments, episodes, bags.parent / f"{bags.name}_log", advance)


def _train(options: argparse.Namespace) -> int:
    import torch

    from rl_ros.training.offline import train

    torch.set_num_threads(1)
    paths = find_bags(options.bags)
    contract = Contract.load(options.contract) if options.contract else read_bag(paths[0]).contract
    if contract is None:
        raise UserError(f"{paths[0]}: embeds no contract; name one with --contract.")
    episodes = load_episodes(paths, contract)
    total = options.updates or round(options.seconds)
    began = time.monotonic()
    with _progress() as bar:
        task = bar.add_task(f"training {options.algorithm}", total=total)

        def on_progress(update: int, metrics: dict[str, float]) -> None:
            bar.update(task, completed=update if options.updates else min(int(time.monotonic() - began), total))

        bundle = train(
            ReplayMemory(episodes),
            contract,
            options.algorithm,
            options.out,
            seed=options.seed,
            seconds=options.seconds,
            updates=options.updates,
            overrides=_settings(options.set),
            progress=on_progress,
            source_episodes=[episode.source for episode in episodes],
        )
    console.print(f"policy bundle: {bundle}")
    return 0


def load_episodes(paths: Sequence[Path], contract: Contract) -> list[Episode]:
    """Read bags with a progress bar; bags that cannot be used are named on standard error."""
    with _progress() as bar:
        task = bar.add_task("reading bags", total=len(paths))
        episodes, refused = read_episodes(paths, contract, lambda: bar.advance(task))
    for sentence in refused:
        print(f"left out: {sentence}", file=sys.stderr)
    if not episodes:
        raise UserError(f"none of {len(paths)} bags can be used; the sentences above say why.")
    return episodes


def _settings(texts: Sequence[str]) -> dict[str, Any]:
    settings = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator:
            raise UserError(f"--set {text}: expected KEY=VALUE, such as --set batch_size=128.")
        try:
            settings[key] = json.loads(value)
        except json.JSONDecodeError:
            settings[key] = value
    return settings


def _evaluate(options: argparse.Namespace) -> int:
    if (options.run_directory is None) == (options.policy is None):
        raise UserError("give either a RUN of `rl_ros train` or --policy BUNDLE.")
    bundle = options.policy or options.run_directory / "bundle"
    out = options.out or (options.run_directory or options.policy.parent) / "evaluation"
    results = evaluate(bundle, options.graph, options.episodes, options.seed, out, options.bags)
    summary = results.summary()
    _show(summary, f"{bundle} on {options.graph}")
    print(json.dumps(summary))
    return 0


def evaluate(
    bundle: Path, graph: str, episodes: int, seed: int, out: Path, bags: Path | None, title: str = "evaluating"
) -> Results:
    """Run a policy in live episodes."""
    arguments = {"policy": str(bundle.resolve()), "seed": str(seed), "bags": str(bags.resolve()) if bags else ""}
    with _episode_bar(title, episodes) as advance:
        return run_episodes(graph, arguments, episodes, out, advance)


def _report(options: argparse.Namespace) -> int:
    from rl_ros.training.report import write_report

    console.print(f"report: {write_report(options.run_directory)}")
    return 0


def _info(options: argparse.Namespace) -> int:
    bag = read_bag(options.bag)
    contract = bag.contract
    table = Table(title=str(options.bag), title_justify="left", show_header=False)
    table.add_row("outcome", bag.outcome.get("outcome", "none: the recording was cut off, or is of another recorder"))
    table.add_row("seed", bag.metadata.get("seed", "unknown"))
    table.add_row("contract", contract.name if contract else "none embedded")
    table.add_row("recorded with", f"rl_ros {bag.metadata['rl_ros']}" if "rl_ros" in bag.metadata else "unknown")
    if bag.messages:
        times = [message.log_time for message in bag.messages]
        table.add_row("duration", f"{(max(times) - min(times)) * 1e-9:.2f} s")
    table.add_row("damage", bag.damage or "none")
    if bag.missing:
        table.add_row("incomplete topics", ", ".join(bag.missing))
    if contract is not None:
        episode = read_episode(bag, contract)
        table.add_row("ticks", str(len(episode.stamps)))
        table.add_row("transitions", str(int(episode.has_transition.sum())))
        table.add_row("return", f"{episode.reward.sum():g}")
        for problem in episode.problems:
            table.add_row("problem", problem)
    console.print(table)
    topics = Table("topic", "type", "messages")
    for topic, (message_type, count) in sorted(bag.topics.items()):
        topics.add_row(topic, message_type, str(count))
    console.print(topics)
    return 0


def _demo(options: argparse.Namespace) -> int:
    from rl_ros.training.demo import run_demo

    summary = run_demo(
        options.out, options.episodes, options.seconds, options.evaluations, options.seed, collect, evaluate, _progress
    )
    _show(summary, "demo")
    console.print(f"report: {options.out / 'report.html'}")
    return 0


def _show(figures: dict[str, Any], title: str) -> None:
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in figures.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        elif isinstance(value, list):
            value = " to ".join(map(str, value))
        table.add_row(name.replace("_", " "), str(value))
    console.print(table)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )


@contextmanager
def _episode_bar(title: str, episodes: int) -> Iterator[Any]:
    with _progress() as bar:
        task: TaskID = bar.add_task(title, total=episodes)

        def advance(results: Results) -> None:
            done = len(results.episodes)
            rate = f", success {results.successes / done:.2f}" if done else ""
            bar.update(task, completed=done, description=f"{title}{rate}")

        yield advance


if __name__ == "__main__":
    sys.exit(main())
