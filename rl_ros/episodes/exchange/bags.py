"""Episodes from elsewhere as bags: from then on they are recordings like any other.

Bags, not a data format of our own: everything that reads recordings, from `train` to `info`, then reads imported data
as well, through the same assembler.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

import rl_ros
from rl_ros.contract import Contract, Key, Recorded
from rl_ros.episodes import messages
from rl_ros.episodes.memory import Episode
from rl_ros.episodes.record import EpisodeFile
from rl_ros.errors import UserError

REWARD_NAMES = ("reward", "success", "terminated", "truncated")


def write_bags(episodes: Iterable[Episode], contract: Contract, out: Path) -> list[Path]:
    """Write each episode as a bag `episode_NNNNNN` under `out`; returns their directories.

    Raises:
        UserError: there is such a bag, or a key of the contract travels as a type that is not written here.
    """
    keys = contract.observation | contract.auxiliary | {"desired_goal": contract.goal.desired_goal}
    topics: dict[str, dict[str, Key]] = {}
    for name, key in keys.items():
        if key.alignment == "window":
            raise UserError(f"{name}: import cannot write the messages of a window; name a contract without one.")
        topics.setdefault(key.topic, {})[name] = key
    types = {topic: next(iter(of_topic.values())).type for topic, of_topic in topics.items()}
    types |= {channel.topic: channel.type for channel in contract.action.values()}
    types[contract.reward.topic] = "sensor_msgs/msg/JointState"
    recorded = {topic: Recorded(message_type) for topic, message_type in types.items()}
    text = contract.to_yaml()
    written = []
    for number, episode in enumerate(episodes):
        start, end = int(episode.stamps[0]), int(episode.stamps[-1])
        metadata = {"contract": text, "rl_ros": rl_ros.__version__, "seed": str(episode.seed), "episode": str(number)}
        metadata |= {"start": str(start), "imported_from": episode.source}
        file = EpisodeFile(out, f"episode_{number:06d}", recorded, metadata)
        columns = episode.observation | episode.auxiliary | {"desired_goal": episode.desired_goal}
        for row, stamp in enumerate(episode.stamps.tolist()):
            for topic, of_topic in topics.items():
                values = {name: columns[name][row] for name in of_topic}
                file.write(topic, stamp, _cdr(stamp, contract.frame, of_topic, values))
            if row:
                judgement = [
                    float(episode.reward[row - 1]),
                    float(episode.success and stamp == end),
                    float(episode.terminated[row - 1]),
                    float(episode.truncated[row - 1]),
                ]
                file.write(contract.reward.topic, stamp, messages.joint_state_cdr(stamp, REWARD_NAMES, judgement))
            if episode.has_transition[row]:
                for topic, cdr in messages.action_cdrs(contract, stamp, episode.action[row]).items():
                    file.write(topic, stamp, cdr)
        outcome = {"outcome": episode.outcome, "end": str(end), "missing": json.dumps([])}
        written.append(file.close(outcome | {"seed": str(episode.seed), "episode": str(number)}))
    return written


def _cdr(stamp: int, frame: str, keys: Mapping[str, Key], values: Mapping[str, np.ndarray]) -> bytes:
    """One message that holds the values of all the keys of its topic."""
    first = next(iter(keys.values()))
    fields = {key.field: values[name] for name, key in keys.items()}
    # What no key names is not known: NaN, not 0.
    unknown, upright = np.full(3, np.nan), np.array([0.0, 0.0, 0.0, 1.0])
    match first.type:
        case "sensor_msgs/msg/Image" if first.encoding == "rgb8":
            return messages.image_cdr(stamp, frame, values[next(iter(keys))])
        case "sensor_msgs/msg/JointState":
            names = list(dict.fromkeys(name for key in keys.values() for name in key.names))
            arrays: dict[str, np.ndarray] = {}
            for name, key in keys.items():
                array = arrays.setdefault(key.field, np.full(len(names), np.nan))
                array[[names.index(joint) for joint in key.names]] = values[name]
            position, velocity, effort = (arrays.get(field, ()) for field in ("position", "velocity", "effort"))
            return messages.joint_state_cdr(stamp, names, position, velocity, effort)
        case "geometry_msgs/msg/PoseStamped":
            position = fields.get("pose.position", unknown)
            return messages.pose_cdr(stamp, frame, position, fields.get("pose.orientation", upright))
        case "geometry_msgs/msg/TwistStamped":
            linear = fields.get("twist.linear", unknown)
            return messages.twist_cdr(stamp, frame, linear, fields.get("twist.angular", unknown))
    raise UserError(f"{first.topic}: import cannot write a {first.type} {first.encoding}".rstrip() + " yet.")
