"""`rl_ros train`: a policy from bags."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl_ros.commands.console import console, duration, positive, progress, seed, share
from rl_ros.commands.train_in_parts import add_in_parts, run_in_parts
from rl_ros.commands.train_online import add_online, run_online
from rl_ros.contract import ACTORS, Contract
from rl_ros.episodes.bags import find_bags, read_bag
from rl_ros.episodes.cache import DIRECTORY, Dataset, cache_beside, load_columns
from rl_ros.episodes.ingest import Cuts
from rl_ros.episodes.memory import Columns, ReplayMemory
from rl_ros.episodes.relabel import read_layer
from rl_ros.errors import UserError
from rl_ros.graph import parse_arguments

if TYPE_CHECKING:
    from rl_ros.networks.image_encoder import ImageEncoder


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "train",
        help="train a policy from bags",
        description="Train a policy from bags alone and export it as RUN/bundle: offline, or --online while more land.",
    )
    parser.add_argument(
        "--algorithm",
        default="",
        metavar="NAME",
        help="such as bc or iql, or gciql where goals are reached; see `rl_ros algorithms`",
    )
    parser.add_argument("--bags", type=Path, required=True, metavar="DIR", help="bags to learn from")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="directory of the run")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=duration, help="train for so long")
    length.add_argument("--updates", type=positive, help="train for so many updates; the same seed gives the same bits")
    parser.add_argument("--seed", type=seed, default=0, help="of weights and batches (default: %(default)s)")
    parser.add_argument(
        "--device", default="cpu", help="to learn on, as torch names it: cpu, cuda, cuda:1 (default: %(default)s)"
    )
    parser.add_argument("--task", metavar="NAME", help="learn from the layer that `rl_ros relabel --task NAME` made")
    parser.add_argument(
        "--held-out",
        type=share,
        metavar="SHARE",
        help="of the episodes to leave out, for validation and `rl_ros evaluate --offline` (default: 3 in 100)",
    )
    parser.add_argument(
        "--actors",
        default="",
        metavar="NAME,NAME,...",
        help=f"learn only from actions that these have chosen, out of {', '.join(ACTORS)} (default: everybody's)",
    )
    parser.add_argument(
        "--human-share",
        type=share,
        default=0.0,
        metavar="SHARE",
        help="of each batch from ticks at which a person acted; they count as demonstrations (default: as they come)",
    )
    parser.add_argument(
        "--encoder",
        type=Path,
        metavar="DIR",
        help="an image encoder, where goals are images (default: train one first; --online: that of --continue)",
    )
    parser.add_argument(
        "--encoder-updates", type=positive, default=4000, metavar="N", help="of training one (default: %(default)s)"
    )
    add_reading(parser)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting (`rl_ros algorithms NAME`)"
    )
    add_online(parser)
    add_in_parts(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    if options.online:
        return run_online(options, read_settings(options.set), _named_or_recorded(options))
    if options.ray is not None or options.grasps:
        return run_in_parts(options, read_settings(options.set))
    if options.continue_from:
        raise UserError("--continue goes with --online, which learns on from bags as they land, or with --grasps.")
    if not options.algorithm:
        raise UserError("give the --algorithm to train, such as iql.")
    if not (options.seconds or options.updates):
        raise UserError("say how long to train: --seconds or --updates.")
    import torch

    from rl_ros.algorithms.gpu import require_device
    from rl_ros.training.offline import HELD_OUT, train
    from rl_ros.training.runs import DataSource, write_source

    torch.set_num_threads(1)
    require_device(options.device)
    contract, dataset = load_dataset(options, unencoded=True)
    if options.task:
        dataset = read_layer(dataset, options.task).over(dataset)
    actors = tuple(filter(None, options.actors.split(",")))
    if actors:
        dataset = dataset.of_actors(actors)
    cuts = cuts_of(options)
    held_out = HELD_OUT if options.held_out is None else options.held_out
    source = DataSource(
        str(options.bags),
        options.task or "",
        cuts.topic,
        cuts.seconds,
        str(options.cache or ""),
        held_out,
        actors,
    )
    write_source(options.out, source)
    total = options.updates or round(options.seconds)
    columns, encoder = dataset.columns, None
    if contract.goal.image:
        columns, encoder = _latents(options, dataset.columns, contract)
    began = time.monotonic()
    with progress() as bar:
        task = bar.add_task(f"training {options.algorithm}", total=total)

        def on_progress(update: int, metrics: dict[str, float]) -> None:
            bar.update(task, completed=update if options.updates else min(int(time.monotonic() - began), total))

        bundle = train(
            ReplayMemory(columns, achieved_goal=contract.goal.achieved_goal or None),
            contract,
            options.algorithm,
            options.out,
            seed=options.seed,
            seconds=options.seconds,
            updates=options.updates,
            overrides=read_settings(options.set),
            progress=on_progress,
            source_episodes=[str(Path(episode.source).resolve()) for episode in dataset.episodes],
            held_out=held_out,
            human=dataset.human if options.human_share else None,
            human_share=options.human_share,
            encoder=encoder,
            device=options.device,
        )
    console.print(f"policy bundle: {bundle}")
    return 0


def _latents(options: argparse.Namespace, columns: Columns, contract: Contract) -> "tuple[Columns, ImageEncoder]":
    """Recorded images as latents, by an encoder that is there or trained first."""
    from rl_ros.networks.image_encoder import load_encoder
    from rl_ros.training.rig import columns_of_latents, encoder_of_recordings

    if options.encoder:
        encoder = load_encoder(options.encoder)
    else:
        with progress() as bar:
            task = bar.add_task("training the image encoder", total=options.encoder_updates)
            encoder, figures = encoder_of_recordings(
                columns,
                contract,
                options.out,
                updates=options.encoder_updates,
                seed=options.seed,
                progress=lambda done: bar.update(task, completed=done),
            )
        console.print(
            f"image encoder: {encoder.directory}; refuses {figures['false_refusals']:.1%} of {figures['measured']:.0f} "
            "held-out images"
        )
    return columns_of_latents(columns, contract, encoder), encoder


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say how bags are read."""
    parser.add_argument("--contract", help="name or path of a contract (default: the one in the first bag)")
    parser.add_argument(
        "arguments", nargs="*", metavar="KEY:=TOPIC", help="take a key of the contract from another topic"
    )
    add_cuts(parser)
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help=f"where decoded bags are kept (default: {DIRECTORY} beside the bags)"
    )


def add_cuts(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say where the episodes of a bag are cut apart."""
    parser.add_argument(
        "--split-on", default="", metavar="TOPIC", help="each message on it begins an episode (also a service's events)"
    )
    parser.add_argument(
        "--split-at", default="", metavar="S,S,...", help="an episode begins so many seconds after the first tick"
    )


def cuts_of(options: argparse.Namespace) -> Cuts:
    """Where those arguments say that the episodes of a bag are cut apart.

    Raises:
        UserError: the seconds are none.
    """
    return Cuts(options.split_on, _seconds(options.split_at))


def load_dataset(options: argparse.Namespace, unencoded: bool = False) -> tuple[Contract, Dataset]:
    """The contract, and the bags it names with a progress bar; what cannot be used is named on standard error.

    Args:
        unencoded: take the camera's images instead of their latents, where goals are images.
    """
    paths = find_bags(options.bags)
    contract = Contract.load(options.contract) if options.contract else _first_contract(paths)
    contract = contract.remapped(parse_arguments(options.arguments, "image:=/front/image_raw"))
    read_by = contract.without_latent() if unencoded and contract.goal.image else contract
    cuts = cuts_of(options)
    with progress() as bar:
        task = bar.add_task("reading bags", total=len(paths))
        cache = options.cache or cache_beside(options.bags, paths)
        dataset = load_columns(paths, read_by, cache, cuts, lambda: bar.advance(task))
    for sentence in dataset.refused:
        print(f"left out: {sentence}", file=sys.stderr)
    return contract, dataset


def _named_or_recorded(options: argparse.Namespace) -> Contract | None:
    """The contract that is named, or that of the bags if there are any yet."""
    if options.contract:
        return Contract.load(options.contract)
    try:
        return _first_contract(find_bags(options.bags))
    except UserError:
        return None


def _first_contract(paths: Sequence[Path]) -> Contract:
    for path in paths:
        try:
            contract = read_bag(path).contract
        except UserError:
            continue  # named when the bags are read
        if contract is not None:
            return contract
        break
    raise UserError(f"{paths[0]}: embeds no contract; name one with --contract.")


def _seconds(text: str) -> tuple[float, ...]:
    try:
        seconds = tuple(float(part) for part in text.split(",") if part)
    except ValueError:
        seconds = (-1.0,)
    if not all(0 <= second < float("inf") for second in seconds):
        raise UserError(f"--split-at {text}: expected seconds separated by commas, such as 12.5,40.")
    return seconds


def read_settings(texts: Sequence[str]) -> dict[str, Any]:
    """What `--set` was given, KEY=VALUE each: values are JSON, or else text."""
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
