"""The graph of nodes, declared once and resolved without ROS.

`config/nodes.yaml` says what each node is; `config/graphs/*.yaml` says which nodes make up a graph, in
which processes and with which parameters. The supervisor and the launch file both start what `resolve`
returns, so they cannot differ.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

from rl_ros import schema
from rl_ros.contract import Contract
from rl_ros.errors import UserError
from rl_ros.resources import share_directory, share_file
from rl_ros.robot import Place, Robot

ParameterType = Literal["string", "bool", "integer", "double", "double_array"]
Value = str | bool | int | float | tuple[float, ...]
QosName = Literal["sensor", "state", "command", "event", "latched", "recorded", "recorded_sensor"]


@dataclass(frozen=True)
class Qos:
    """The part of a QoS profile that rl_ros sets; history is always keep-last."""

    reliable: bool
    transient_local: bool
    depth: int

    def __str__(self) -> str:
        reliability = "reliable" if self.reliable else "best effort"
        return f"{reliability}, {'transient local' if self.transient_local else 'volatile'}, depth {self.depth}"


QOS: dict[QosName, Qos] = {
    "sensor": Qos(reliable=False, transient_local=False, depth=5),
    "state": Qos(reliable=True, transient_local=False, depth=10),
    "command": Qos(reliable=True, transient_local=False, depth=10),
    "event": Qos(reliable=True, transient_local=True, depth=32),
    "latched": Qos(reliable=True, transient_local=True, depth=1),
    # Deep, because a recorder may lag but must not lose. It asks for what the publisher is declared to offer: asking
    # for less loses messages under load, asking for more hears nothing.
    "recorded": Qos(reliable=True, transient_local=False, depth=1000),
    "recorded_sensor": Qos(reliable=False, transient_local=False, depth=1000),
}
ACTIONS = "contract.action"
"""In remaps: every topic of the contract's action."""
LOSSLESS = Qos(reliable=True, transient_local=True, depth=64)
"""In lockstep a lost message stalls the graph, and the first ones must reach a subscriber found late."""


def qos(name: QosName, lossless: bool) -> Qos:
    """The profile of that name, as it is under lockstep (`lossless`) or in real time."""
    if not lossless or name in ("latched", "event"):
        return QOS[name]
    return Qos(reliable=True, transient_local=True, depth=max(LOSSLESS.depth, QOS[name].depth))


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter of a node: type, bounds, default (None: it must be given) and what it is for."""

    type: ParameterType
    description: str
    default: Any = None
    minimum: float | None = None
    maximum: float | None = None
    settable: bool = False
    """Whether the node takes another value while it runs."""

    def read(self, value: Any, where: str) -> Value:
        """The value in the parameter's own type; text is read as YAML would.

        Raises:
            UserError: wrong type or out of bounds; the sentence names `where` and what was expected.
        """
        kinds: dict[str, Any] = {"string": str, "bool": bool, "integer": int, "double": float}
        kind = kinds.get(self.type, tuple[float, ...])
        if isinstance(value, str) and self.type != "string":
            value = schema.parse(_Any, f"value: {value}", where).value
        converted: Value = schema.convert(kind, value, where)
        numbers = converted if isinstance(converted, tuple) else (converted,)
        for number in numbers:
            if isinstance(number, (str, bool)):
                continue
            if self.minimum is not None and number < self.minimum:
                raise UserError(f"{where}: expected at least {self.minimum:g}, got {number:g}.")
            if self.maximum is not None and number > self.maximum:
                raise UserError(f"{where}: expected at most {self.maximum:g}, got {number:g}.")
        return converted


@dataclass(frozen=True)
class _Any:
    value: Any


@dataclass(frozen=True)
class TopicSpec:
    """One topic of a node, or, with `contract`, all topics that part of the contract names."""

    qos: QosName
    topic: str = ""
    type: str = ""
    contract: Literal[
        "", "observation", "auxiliary", "action", "goal", "reward", "reference", "camera", "latent", "recorded"
    ] = ""
    optional: bool = False
    """Whether a node that subscribes is ready for an episode without a publisher of it."""
    when: str = ""
    """The parameter that must be true for the node to have the topic at all."""
    under: str = ""
    """What goes before the name of a topic of the contract."""


@dataclass(frozen=True)
class ServiceSpec:
    """One service that a node serves."""

    service: str
    type: str


@dataclass(frozen=True)
class NodeSpec:
    """What a node is, from `config/nodes.yaml`."""

    description: str
    parameters: dict[str, ParameterSpec] = field(default_factory=dict)
    publishes: tuple[TopicSpec, ...] = ()
    subscribes: tuple[TopicSpec, ...] = ()
    serves: tuple[ServiceSpec, ...] = ()


@dataclass(frozen=True)
class _NodesFile:
    every_node: dict[str, ParameterSpec]
    nodes: dict[str, NodeSpec]


@cache
def node_specs() -> dict[str, NodeSpec]:
    """Every node of rl_ros by name, with the parameters that all nodes have."""
    file = schema.load(_NodesFile, share_file("config/nodes.yaml"))
    return {
        name: NodeSpec(
            spec.description, {**file.every_node, **spec.parameters}, spec.publishes, spec.subscribes, spec.serves
        )
        for name, spec in file.nodes.items()
    }


@dataclass(frozen=True)
class Endpoint:
    """A topic as a node sees it: name before remapping, message type, profile."""

    topic: str
    type: str
    qos: QosName
    optional: bool = False


def endpoints(
    specs: tuple[TopicSpec, ...], contract: Contract, settings: Mapping[str, Any] | None = None
) -> dict[str, Endpoint]:
    """The topics of a node, those of the contract spelled out, by name.

    Args:
        specs: what the node publishes, or subscribes to.
        contract: of the task.
        settings: the node's parameters, which say what topics it has; None for all that it can have.
    """
    found: dict[str, Endpoint] = {}
    for spec in specs:
        if spec.when and settings is not None and not settings[spec.when]:
            continue
        if not spec.contract:
            found[spec.topic] = Endpoint(spec.topic, spec.type, spec.qos, spec.optional)
            continue
        if spec.contract == "recorded":
            offered = offered_profiles(contract)
            for topic, recorded in contract.recorded_topics().items():
                reliable = topic in offered and QOS[offered[topic]].reliable
                listens: QosName = "recorded" if reliable else "recorded_sensor"
                found.setdefault(topic, Endpoint(topic, recorded.type, listens, spec.optional))
            continue
        named: dict[str, str]
        profile = spec.qos
        if spec.contract == "reward":
            named = {contract.reward.topic: "sensor_msgs/msg/JointState"}
        elif spec.contract == "goal":
            goal = contract.goal.desired_goal
            named = {goal.topic: goal.type}
            # One that every tick is given is a stream like any other, not the one message that late joiners need.
            profile = spec.qos if goal.alignment == "held" else "state"
        elif spec.contract == "reference":
            reference = contract.observation[contract.reference]
            named = {reference.topic: reference.type}
        elif spec.contract == "camera":  # whose messages are the ticks, before any encoder
            camera = contract.camera if contract.goal.image else contract.observation[contract.reference]
            named = {camera.topic: camera.type}
        elif spec.contract == "latent":
            named = {contract.latent.topic: contract.latent.type} if contract.goal.image else {}
        else:
            named = {key.topic: key.type for key in getattr(contract, spec.contract).values()}
        for topic, message_type in named.items():
            # A topic that two keys share keeps the first profile.
            topic = spec.under + topic
            found.setdefault(topic, Endpoint(topic, message_type, profile, spec.optional))
    return found


def node_contract(settings: Mapping[str, Any]) -> Contract:
    """The contract of a node with these parameters: on a robot without what only a simulation knows.

    Raises:
        UserError: as `Contract.load`.
    """
    contract = Contract.load(str(settings["contract"]))
    return contract if settings["simulation"] else contract.without_simulated()


def absolute(topic: str, namespace: str = "") -> str:
    """The name of a topic as ROS resolves it. Names of a contract, too, are those within the graph's namespace."""
    return f"{f'/{namespace}' if namespace else ''}/{topic.lstrip('/')}"


def read_namespace(text: str, where: str) -> str:
    """A ROS namespace without the slash before it; empty for none.

    Raises:
        UserError: it is none that ROS takes.
    """
    namespace = text.strip("/")
    if namespace and not re.fullmatch(r"[A-Za-z_]\w*(/[A-Za-z_]\w*)*", namespace, re.ASCII):
        raise UserError(f"{where}: '{text}' is no namespace: letters, digits and underscores, such as arm_1.")
    return namespace


def offered_profiles(contract: Contract) -> dict[str, QosName]:
    """The profile that the node of rl_ros which publishes a topic offers, by the topic's absolute name."""
    return {
        absolute(topic): endpoint.qos
        for spec in node_specs().values()
        for topic, endpoint in endpoints(spec.publishes, contract).items()
    }


@dataclass(frozen=True)
class Argument:
    """One `key:=value` argument of a graph."""

    default: str
    description: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Variable:
    """A value that follows from an argument."""

    by: str
    values: dict[str, str]
    otherwise: str = ""


@dataclass(frozen=True)
class GraphNode:
    """One node of a graph. It runs where all of `only` and none of `unless` hold.

    In `remaps`, `contract.action` stands for the topics of the contract's action, and its value goes before their
    names. A remap to nothing is none.
    """

    process: str
    parameters: dict[str, Any] = field(default_factory=dict)
    remaps: dict[str, str] = field(default_factory=dict)
    only: dict[str, str] = field(default_factory=dict)
    unless: dict[str, str] = field(default_factory=dict)
    stops_graph: bool = False


@dataclass(frozen=True)
class Defaults:
    """Other defaults of a graph's arguments."""

    defaults: dict[str, str] = field(default_factory=dict)
    """By name."""
    shipped: dict[str, str] = field(default_factory=dict)
    """Directories of ours that are the default where they are there, such as `policies/reach`."""

    def there(self) -> dict[str, str]:
        """The defaults, and of what is shipped what is there; an argument whose directory is missing gets none."""
        ours = {key: share_directory() / directory for key, directory in self.shipped.items()}
        return self.defaults | {key: str(path) if path.is_dir() else "" for key, path in ours.items()}


@dataclass(frozen=True)
class Graph:
    """A graph as declared in `config/graphs/*.yaml`: by its nodes, or by what it does otherwise than another."""

    name: str
    arguments: dict[str, Argument] = field(default_factory=dict)
    nodes: dict[str, GraphNode] = field(default_factory=dict)
    common: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)
    remaps: dict[str, str] = field(default_factory=dict)
    """Of every node."""
    like: str = ""
    """The graph that it is like, but for its defaults, and for arguments that it has beside those of that one."""
    defaults: dict[str, str] = field(default_factory=dict)
    shipped: dict[str, str] = field(default_factory=dict)
    """See `Defaults`."""
    instead: dict[str, dict[str, Defaults]] = field(default_factory=dict)
    """What defaults are where an argument has a value, by both."""


def alone(name: str, nodes: dict[str, GraphNode], namespace: str) -> Graph:
    """A graph of a few nodes that join another one, in its namespace."""
    return Graph(name, {"namespace": Argument(namespace, "of the graph that is joined")}, nodes)


@dataclass(frozen=True)
class ResolvedNode:
    """One node as it will be started."""

    name: str
    parameters: dict[str, Value]
    remaps: dict[str, str]
    stops_graph: bool
    publishes: tuple[Endpoint, ...]
    subscribes: tuple[Endpoint, ...]
    namespace: str = ""

    def name_of(self, endpoint: Endpoint) -> str:
        """The absolute name of one of its topics, after remapping."""
        remaps = {absolute(topic): there for topic, there in self.remaps.items()}
        name = absolute(endpoint.topic)
        return absolute(remaps.get(name, name), self.namespace)


@dataclass(frozen=True)
class ResolvedGraph:
    """What will be started: the nodes of each process, by the process's name, in a fixed order."""

    name: str
    processes: dict[str, tuple[ResolvedNode, ...]]
    lossless: bool
    namespace: str = ""
    """Of all its nodes, topics and services, without the slash before it."""

    @property
    def nodes(self) -> tuple[ResolvedNode, ...]:
        """Every node of every process."""
        return tuple(node for nodes in self.processes.values() for node in nodes)


def load_graph(name: str) -> Graph:
    """The graph of that name in `config/graphs/`.

    Raises:
        UserError: there is none, or it is wrong.
    """
    path = share_directory() / "config" / "graphs" / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise UserError(f"no graph is named '{name}'; there are: {known}.")
    graph = schema.load(Graph, path)
    if not graph.like:
        return graph
    base = load_graph(graph.like)
    arguments, ours = base.arguments | graph.arguments, Defaults(graph.defaults, graph.shipped).there()
    others = [there for values in graph.instead.values() for there in values.values()]
    for key in (*ours, *graph.instead, *(key for other in others for key in other.there())):
        if key not in arguments:
            raise UserError(f"{path}: defaults: {_no_argument(key, arguments)}")
    arguments = {key: replace(a, default=ours.get(key, a.default)) for key, a in arguments.items()}
    return replace(base, name=graph.name, arguments=arguments, instead=graph.instead)


def parse_arguments(texts: list[str], example: str = "robot:=pybullet") -> dict[str, str]:
    """`key:=value` texts as a mapping; `example` is one to show who writes something else.

    Raises:
        UserError: one is not of that form.
    """
    arguments = {}
    for text in texts:
        key, separator, value = text.partition(":=")
        if not separator or not key:
            raise UserError(f"argument '{text}': expected the form key:=value, such as {example}.")
        arguments[key] = value
    return arguments


def next_episode(bags: Path) -> int:
    """The number of an episode to come after those that were recorded into a directory, which need not exist."""
    return max((int(path.name.split("_")[1].split(".")[0]) for path in bags.glob("episode_[0-9]*")), default=-1) + 1


def resolve(graph: Graph, given: Mapping[str, str]) -> ResolvedGraph:
    """Fill in arguments, drop what does not run, check every parameter, group nodes by process.

    Raises:
        UserError: an unknown argument, value, node or parameter.
    """
    values = _values(graph, given)
    if values.get("first_episode") == "":
        values["first_episode"] = str(next_episode(Path(values["bags"])) if values.get("bags") else 0)
    if values.get("seed") == "":
        values["seed"] = values["first_episode"]
    specs = node_specs()
    robot = Robot.load(values["arm"]) if "arm" in values else None
    drivers = robot.topics.get(cast(Place, values.get("robot", "")), {}) if robot else {}
    if robot and values.get("robot") in get_args(Place) and not drivers:
        raise UserError(
            f"graph {graph.name}: robot:={values['robot']}: config/robots/{robot.name}.yaml says no topics for it."
        )
    if drivers and values.get("lockstep") == "true":
        raise UserError(f"graph {graph.name}: lockstep:=true: a real arm does not wait, nor does Gazebo's.")
    namespace = read_namespace(values.get("namespace", ""), f"graph {graph.name}: namespace")
    if namespace and values.get("robot") == "gazebo":
        raise UserError(f"graph {graph.name}: namespace:={namespace}: the world for Gazebo has one arm, without any.")
    if robot:
        values |= robot.values()
    processes: dict[str, list[ResolvedNode]] = {}
    lossless = False
    for name, node in graph.nodes.items():
        if name not in specs:
            raise UserError(f"graph {graph.name}: nodes: '{name}' is not one of: {', '.join(sorted(specs))}.")
        for key in (*node.only, *node.unless):
            if key not in values:
                raise UserError(f"graph {graph.name}: {name}: {_no_argument(key, values)}")
        if any(values[k] != v for k, v in node.only.items()) or any(values[k] == v for k, v in node.unless.items()):
            continue
        spec = specs[name]
        raw = {k: v for k, v in graph.common.items() if k in spec.parameters} | node.parameters
        parameters: dict[str, Value] = {}
        for key, value in raw.items():
            where = f"graph {graph.name}: {name}: {key}"
            if key not in spec.parameters:
                raise UserError(f"{where}: no such parameter; {name} has: {', '.join(spec.parameters)}.")
            parameters[key] = spec.parameters[key].read(_substitute(value, values, where), where)
        for key, parameter in spec.parameters.items():
            if key not in parameters:
                if parameter.default is None:
                    raise UserError(f"graph {graph.name}: {name}: the parameter '{key}' must be given.")
                parameters[key] = parameter.read(parameter.default, f"config/nodes.yaml: {name}: {key}")
        contract = node_contract(parameters)
        publishes = endpoints(spec.publishes, contract, parameters)
        subscribes = endpoints(spec.subscribes, contract, parameters)
        has = {absolute(topic) for topic in (*publishes, *subscribes)} | {absolute(topic) for topic in node.remaps}
        remaps = {
            topic: there
            for topic, there in _remaps(graph, name, node, contract, drivers, values).items()
            if absolute(topic) in has and absolute(topic) != absolute(there)
        }
        lossless = lossless or bool(parameters["lossless"])
        process = name if values.get("composition") == "separate" else node.process
        processes.setdefault(process, []).append(
            ResolvedNode(
                name,
                parameters,
                remaps,
                node.stops_graph,
                tuple(publishes.values()),
                tuple(subscribes.values()),
                namespace,
            )
        )
    return ResolvedGraph(graph.name, {name: tuple(nodes) for name, nodes in processes.items()}, lossless, namespace)


def _remaps(
    graph: Graph, name: str, node: GraphNode, contract: Contract, drivers: Mapping[str, str], values: Mapping[str, str]
) -> dict[str, str]:
    """By topic its other name: what the robot's drivers call it, what the graph says, what the node's entry says."""
    found: dict[str, str] = {}
    for remaps in (drivers, graph.remaps, node.remaps):
        for topic, there in remaps.items():
            other = _substitute(there, values, f"graph {graph.name}: {name}: remaps: {topic}")
            if topic == ACTIONS:
                found |= {key.topic: f"{other}{key.topic}" for key in contract.action.values() if other}
            elif other:
                found[topic] = other
    return found


def _values(graph: Graph, given: Mapping[str, str]) -> dict[str, str]:
    for key in given:
        if key not in graph.arguments:
            raise UserError(f"graph {graph.name}: no argument '{key}'; there are: {', '.join(graph.arguments)}.")
    defaults = {key: argument.default for key, argument in graph.arguments.items()}
    values = {}
    # `ros2 launch` gives every argument, most of them as they are by default.
    chosen = {key: value for key, value in given.items() if value != defaults[key]}
    for key, instead in graph.instead.items():
        defaults |= instead[found].there() if (found := chosen.get(key, defaults[key])) in instead else {}
    for key, argument in graph.arguments.items():
        values[key] = chosen.get(key, defaults[key])
        if argument.choices and values[key] not in argument.choices:
            raise UserError(
                f"graph {graph.name}: {key}: expected one of {', '.join(argument.choices)}, got '{values[key]}'."
            )
    for key, variable in graph.variables.items():
        if variable.by not in values:
            raise UserError(f"graph {graph.name}: variables: {key}: {_no_argument(variable.by, values)}")
        found = variable.values.get(values[variable.by], variable.otherwise)
        values[key] = _substitute(found, values, f"graph {graph.name}: variables: {key}")
    return values


def _no_argument(key: str, values: Mapping[str, object]) -> str:
    return f"'{key}' is not an argument; there are: {', '.join(values)}."


def _substitute(value: Any, values: Mapping[str, str], where: str) -> Any:
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise UserError(f"{where}: $({match[1]}) is not an argument; there are: {', '.join(values)}.")
        return values[match[1]]

    return re.sub(r"\$\(([\w.]+)\)", replace, value)
