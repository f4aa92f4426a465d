"""`rl_ros train`: a policy from bags."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rl_ros.commands.console import console, positive, progress
from rl_ros.contract import Contract
from rl_ros.episodes.bags import find_bags, read_bag
from rl_ros.episodes.ingest import read_episodes
from rl_ros.episodes.memory import Episode, ReplayMemory
from rl_ros.errors import UserError


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "train",
        help="train a policy from bags",
        description="Train a policy offline, from bags alone, and export it as RUN/bundle.",
    )
    parser.add_argument("--algorithm", required=True, metavar="NAME", help="bc or iql")
    parser.add_argument("--bags", type=Path, required=True, metavar="DIR", help="bags to learn from")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="directory of the run")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--seconds", type=float, help="train for so long")
    length.add_argument("--updates", type=positive, help="train for so many updates; the same seed gives the same bits")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default: %(default)s)")
    parser.add_argument("--contract", help="name or path of a contract (default: the one in the first bag)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the algorithm")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
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
    with progress() as bar:
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
    with progress() as bar:
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
