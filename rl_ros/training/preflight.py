"""What can be known to be wrong before anything moves: checks of a graph, of the machine, and of what is on the air.

Each check is a plain function of `Evidence` that gives findings; each that fails names its fix. No ROS: what is on the
air is told by the node `probe`.
"""

import base64
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rl_ros.bringup import domain_is_taken, profile_variable
from rl_ros.contract import IMAGES, Contract, Key
from rl_ros.episodes import messages
from rl_ros.errors import UserError
from rl_ros.graph import QOS, Endpoint, ResolvedGraph, ResolvedNode, absolute, node_contract, qos
from rl_ros.robots.arm import Arm
from rl_ros.training.bundle import load_bundle

SHM = Path("/dev/shm")
FRAME_BYTES = 640 * 480 * 3
"""Of the images that must come through out of the box."""
FEW_LOST = 0.9
"""Share of them that must come; a segment that is too small loses a third and more, a busy machine one or two."""
RATE_SLACK = 0.2
"""Share that a camera whose images are the ticks may be faster or slower than the control rate."""
SKEW = 0.5
"""s that a message may be stamped away from this machine's clock."""
SLOWEST = 0.5
"""Share of the control period that the policy may need for one action."""
NEAR_HOME = 1.0
"""rad of a joint from home beyond which the way home deserves a look."""

Status = Literal["ok", "warning", "failure"]


@dataclass(frozen=True)
class Finding:
    """What one check found; `fix` says what to do, where something is to be done."""

    check: str
    status: Status
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Evidence:
    """What there is to look at."""

    graph: ResolvedGraph
    environment: Mapping[str, str]
    """Of the processes of the graph."""
    real: bool
    """Whether the arm is not simulated by the graph itself."""
    air: Mapping[str, Any] = field(default_factory=dict)
    """By topic what the probe found; empty where there was nothing to probe."""
    simulated_clock: bool = False
    """Whether the arm's time is that of a simulator beside the graph."""
    frames: tuple[int, int] | None = None
    """Images of 640x480 that came from one process to another, and how many were sent."""

    @property
    def contract(self) -> Contract:
        """Of the graph."""
        return node_contract(self.graph.nodes[0].parameters)

    def node(self, name: str) -> ResolvedNode | None:
        """A node of the graph, if it is in it."""
        return next((node for node in self.graph.nodes if node.name == name), None)


def expected(graph: ResolvedGraph) -> dict[str, list[tuple[ResolvedNode, Endpoint]]]:
    """By topic who listens to it, where nobody in the graph publishes it: the drivers' topics."""
    ours = {node.name_of(endpoint) for node in graph.nodes for endpoint in node.publishes}
    found: dict[str, list[tuple[ResolvedNode, Endpoint]]] = {}
    for node in graph.nodes:
        for endpoint in node.subscribes:
            if not endpoint.optional and node.name_of(endpoint) not in ours:
                found.setdefault(node.name_of(endpoint), []).append((node, endpoint))
    return found


def commanded(graph: ResolvedGraph) -> dict[str, Endpoint]:
    """The controllers' topics."""
    return {
        node.name_of(endpoint): endpoint
        for node in graph.nodes
        for endpoint in node.publishes
        if endpoint.topic.startswith("controllers/")
    }


def probed(graph: ResolvedGraph, simulated_clock: bool) -> dict[str, str]:
    """Name and type of each topic that the probe is to look at."""
    heard = {topic: listeners[0][1].type for topic, listeners in expected(graph).items()}
    told = {topic: endpoint.type for topic, endpoint in commanded(graph).items()}
    return heard | told | ({"/clock": "rosgraph_msgs/msg/Clock"} if simulated_clock else {})


def check_domain(evidence: Evidence) -> Iterator[Finding]:
    """The domain is one, and no other graph is on it."""
    domain = evidence.environment.get("ROS_DOMAIN_ID", "0")
    where = evidence.environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    if not domain.isdecimal() or int(domain) > 101:
        fix = "set ROS_DOMAIN_ID to a number from 0 to 101; beyond, Linux may have given the ports away"
        yield Finding("domain", "failure", f"ROS_DOMAIN_ID is '{domain}'", fix)
    elif domain_is_taken(evidence.graph.namespace):
        within = f" in namespace /{evidence.graph.namespace}" if evidence.graph.namespace else ""
        fix = "stop it first, or give this one a namespace of its own"
        yield Finding("domain", "failure", f"a graph of rl_ros already runs on domain {domain}{within}", fix)
    else:
        yield Finding("domain", "ok", f"domain {domain}, discovery {where.lower()}")


def check_clock(evidence: Evidence) -> Iterator[Finding]:
    """Who needs /clock has it, and stamps are of this machine's clock."""
    if not evidence.real:
        yield Finding("clock", "ok", "the simulation publishes /clock")
        return
    if evidence.simulated_clock:
        if evidence.air.get("/clock", {}).get("messages"):
            yield Finding("clock", "ok", "/clock ticks")
        else:
            yield Finding("clock", "failure", "nobody publishes /clock", "start the simulator, and its bridge")
        return
    for topic, found in evidence.air.items():
        ages = found.get("ages")
        if ages and abs(worst := max(ages, key=abs)) > SKEW:
            fix = "let the driver stamp with the system clock, and run chrony or NTP on both machines"
            yield Finding("clock", "failure", f"{topic} is stamped {worst:+.2f} s away from this clock", fix)
            return
    if any(found.get("ages") for found in evidence.air.values()):
        yield Finding("clock", "ok", "stamps agree with this machine's clock")
    else:
        yield Finding("clock", "warning", "no message whose stamp could be looked at", "start the drivers")


def check_shared_memory(evidence: Evidence) -> Iterator[Finding]:
    """Images get from one process to another."""
    variable = profile_variable()
    profile = Path(evidence.environment.get(variable, ""))
    size = re.search(r"<segment_size>(\d+)</segment_size>", profile.read_text()) if profile.is_file() else None
    if size is None:
        fix = f"start with `rl_ros up`, or export {variable}=…/config/fastdds.xml"
        yield Finding("shared memory", "failure", "no Fast DDS profile with a segment size: large images are lost", fix)
        return
    segment, room = int(size[1]), shutil.disk_usage(SHM).free
    needed = segment * len(evidence.graph.processes)
    largest = max([FRAME_BYTES, *(math.prod(k.shape) for k in evidence.contract.observation.values())])
    if room < needed:
        fix = "mount /dev/shm larger (docker: --shm-size=1g), or remove what killed processes left: rm /dev/shm/fast*"
        found = f"{room / 1e6:.0f} MB free in /dev/shm, {needed / 1e6:.0f} MB needed"
        yield Finding("shared memory", "failure", found, fix)
    elif segment < 2 * largest:
        yield Finding(
            "shared memory",
            "failure",
            f"a segment of {segment / 1e6:.1f} MB does not hold two images of {largest / 1e6:.1f} MB",
            f"raise segment_size in {profile.name}",
        )
    else:
        yield Finding("shared memory", "ok", f"{room / 1e6:.0f} MB free, {needed / 1e6:.0f} MB needed")
    if evidence.frames is not None:
        came, sent = evidence.frames
        found = f"{came} of {sent} images of 640x480 came from one process to another"
        fix = "see that nothing else fills /dev/shm and that the machine is not overloaded"
        status: Status = "ok" if came == sent else "warning" if came >= FEW_LOST * sent else "failure"
        yield Finding("images", status, found, "" if came == sent else fix)


def check_qos(evidence: Evidence) -> Iterator[Finding]:
    """Every pair of publisher and subscriber: in the graph as declared, and with the drivers as they are."""
    graph, wrong, pairs = evidence.graph, 0, 0
    offers = [(node, endpoint) for node in graph.nodes for endpoint in node.publishes]
    for node in graph.nodes:
        for endpoint in node.subscribes:
            asked, topic = qos(endpoint.qos, graph.lossless), node.name_of(endpoint)
            theirs = [
                (other.name, qos(e.qos, graph.lossless).reliable, qos(e.qos, graph.lossless).transient_local, e.type)
                for other, e in offers
                if other.name_of(e) == topic
            ]
            theirs += [
                (each["node"], each["reliable"], each["transient_local"], each["type"])
                for each in evidence.air.get(topic, {}).get("publishers", ())
            ]
            for who, reliable, latched, kind in theirs:
                pairs += 1
                if kind != endpoint.type:
                    fix = f"publish {endpoint.type}, or name another topic in config/robots"
                    yield Finding("QoS", "failure", f"{topic}: {who} publishes {kind}", fix)
                    wrong += 1
                elif (asked.reliable and not reliable) or (asked.transient_local and not latched):
                    lacks = "reliable" if asked.reliable and not reliable else "transient local"
                    fix = f"let {who} offer {lacks} delivery (its parameters or qos_overrides)"
                    yield Finding("QoS", "failure", f"{topic}: {node.name} asks {who} for {lacks}: hears nothing", fix)
                    wrong += 1
    for topic, endpoint in commanded(graph).items():
        for each in evidence.air.get(topic, {}).get("subscribers", ()):
            pairs += 1
            if each["type"] != endpoint.type or (each["transient_local"] and not QOS[endpoint.qos].transient_local):
                found = f"{topic}: {each['node']} does not hear the guard"
                yield Finding("QoS", "failure", found, "put the controller's topic into config/robots")
                wrong += 1
    if not wrong:
        yield Finding("QoS", "ok", f"{pairs} pairs agree")


def check_drivers(evidence: Evidence) -> Iterator[Finding]:
    """Each sensor has one publisher and comes often enough; each controller listens, and to nobody else."""
    if not evidence.real:
        return
    contract, missing = evidence.contract, 0
    for topic, listeners in expected(evidence.graph).items():
        found = evidence.air.get(topic, {"messages": 0, "publishers": []})
        only_recorded = all(endpoint.qos.startswith("recorded") for _, endpoint in listeners)
        publishers = found.get("publishers", [])
        needed = _rate(contract, {absolute(endpoint.topic) for _, endpoint in listeners})
        rate = _measured(found)
        if len(publishers) != 1:
            if only_recorded and not publishers:
                yield Finding("sensors", "warning", f"{topic}: nobody publishes it; bags lack it", "start its driver")
                continue
            missing += 1
            what = f"{len(publishers)} publishers on {topic}" if publishers else f"nobody publishes {topic}"
            fix = "stop all but one" if publishers else "start its driver, or put its name into config/robots"
            yield Finding("sensors", "failure", what, fix)
        elif needed is not None and not needed[0] <= rate <= needed[1]:
            missing += 1
            wanted = f"at least {needed[0]:g}" if math.isinf(needed[1]) else f"{needed[0]:g} to {needed[1]:g}"
            fix = f"set the rate in the driver of {publishers[0]['node']}"
            yield Finding("rates", "failure", f"{topic} comes at {rate:.1f} Hz, needed are {wanted}", fix)
        frame = _frame(found, {endpoint.type for _, endpoint in listeners})
        if not only_recorded and frame not in ("", contract.frame):
            missing += 1
            fix = "transform it before it is published: nothing here does"
            yield Finding("frames", "failure", f"{topic} is in frame '{frame}', not in {contract.frame}", fix)
    for topic in commanded(evidence.graph):
        found = evidence.air.get(topic, {})
        if not found.get("subscribers"):
            missing += 1
            fix = "load and activate the controller, or put its name into config/robots"
            yield Finding("controllers", "failure", f"nobody listens to {topic}", fix)
        if rivals := [each["node"] for each in found.get("publishers", ())]:
            missing += 1
            fix = "stop it: the guard must be the only one"
            yield Finding("controllers", "failure", f"{', '.join(rivals)} publishes on {topic}", fix)
    if not missing:
        yield Finding("drivers", "ok", "sensors come as often as needed, controllers listen")


def check_arm(evidence: Evidence) -> Iterator[Finding]:
    """Contract, robot and limits fit together; the arm is where it can begin."""
    guard, contract = evidence.node("arm_guard"), evidence.contract
    if guard is None:
        yield Finding("limits", "failure", "the graph has no arm_guard", "never drive an arm without it")
        return
    settings: dict[str, Any] = guard.parameters
    arm = Arm(settings["arm"])
    fine = True
    if contract.frame != arm.robot.base_frame:
        fine = False
        found = f"the contract is in {contract.frame}, the base of {arm.robot.name} is {arm.robot.base_frame}"
        yield Finding("contract", "failure", found, "give a contract of this arm: contract:=PATH")
    low, high = np.array(settings["workspace_low"]), np.array(settings["workspace_high"])
    home, _ = arm.forward(arm.home)
    if not ((home >= low) & (home <= high)).all():
        fine = False
        found = f"home, at {np.round(home, 3).tolist()} m, is outside the workspace"
        yield Finding("limits", "failure", found, "change workspace_low and workspace_high, or home in config/robots")
    most = float(np.max(np.abs([contract.action["linear_velocity"].low, contract.action["linear_velocity"].high])))
    if most > settings["speed"] * (1 + 1e-6):
        found = f"actions of up to {most:g} m/s are clamped to {settings['speed']:g} m/s"
        yield Finding("limits", "warning", found, f"mean it, or speed:={most:g}")
    if settings["disabled_checks"]:
        found = f"checks are turned off: {settings['disabled_checks']}"
        yield Finding("limits", "warning", found, "leave disabled_checks empty")
    if evidence.real and not settings["heartbeat"]:
        fix = "heartbeat:=0.5, and publish operator/heartbeat from where the operator stands"
        yield Finding("operator", "warning", "silence of the operator does not stop the arm", fix)
    joints = next((found for topic, found in evidence.air.items() if topic.endswith("joint_states")), None)
    if joints and "cdr" in joints:
        names = arm.joint_names
        key = Key("/joint_states", "sensor_msgs/msg/JointState", "position", (len(names),), "float64", "rad", names)
        try:
            measured = messages.value(key, base64.b64decode(joints["cdr"]))
        except messages.MessageError as error:
            yield Finding("arm", "failure", f"joint states are of another arm: {error}", "arm:= names the right one")
            return
        if not ((measured >= arm.lower) & (measured <= arm.upper)).all():
            fine = False
            found = f"joints at {measured.tolist()} are beyond their limits"
            yield Finding("arm", "failure", found, "calibrate the arm, or move it by hand")
        elif np.max(np.abs(measured - arm.home)) > NEAR_HOME:
            joint = names[int(np.argmax(np.abs(measured - arm.home)))]
            found = f"{joint} is {np.max(np.abs(measured - arm.home)):.2f} rad from home: it will be a long way"
            yield Finding("arm", "warning", found, "move the arm near home by hand, or clear its way")
    if fine:
        yield Finding("limits", "ok", f"{arm.robot.name}, contract {contract.name}, {contract.control_rate:g} Hz")


def check_policy(evidence: Evidence) -> Iterator[Finding]:
    """The policy is whole, of this contract, and fast enough."""
    node, contract = evidence.node("policy"), evidence.contract
    bundle = str(node.parameters["bundle"]) if node else ""
    if not bundle:
        status: Status = "warning" if evidence.real else "ok"
        fix = "policy:=RUN/bundle runs a policy" if evidence.real else ""
        yield Finding("policy", status, "the task's scripted expert", fix)
        return
    try:
        loaded = load_bundle(bundle)
        loaded.require(contract)
        policy = loaded.policy()
    except UserError as error:
        yield Finding("policy", "failure", str(error), "train, or copy, a bundle of this contract")
        return
    zeros = {name: np.zeros(key.shape, key.dtype) for name, key in contract.observation.items()}
    goal = np.zeros(contract.goal.desired_goal.shape, np.float32)
    policy.act(zeros, goal)
    began = time.perf_counter()
    action = policy.act(zeros, goal)
    took = time.perf_counter() - began
    if action.shape != contract.action_low.shape or not np.isfinite(action).all():
        yield Finding("policy", "failure", f"its action for zeros is {action.tolist()}", "train it again")
    elif took > SLOWEST * contract.period:
        found = f"one action takes {took * 1e3:.1f} ms of {contract.period * 1e3:.0f} ms"
        yield Finding("policy", "failure", found, "run it on a faster machine, or train a smaller one")
    else:
        yield Finding("policy", "ok", f"{loaded.algorithm}, {took * 1e3:.2f} ms for an action")


def check_disk(evidence: Evidence) -> Iterator[Finding]:
    """An hour of recording fits."""
    recorder, contract = evidence.node("recorder"), evidence.contract
    if recorder is None:
        yield Finding("disk", "ok", "nothing is recorded")
        return
    directory = Path(str(recorder.parameters["directory"])).absolute()
    there = next(each for each in (directory, *directory.parents) if each.is_dir())
    if not os.access(there, os.W_OK):
        yield Finding("disk", "failure", f"{there} cannot be written to", "bags:= names another place")
        return
    size = 2000  # what everything but images takes at a tick, roughly
    for key in contract.observation.values():
        if key.type in IMAGES:
            size += max(math.prod(key.shape), FRAME_BYTES if evidence.real else 0)
    hour = size * contract.control_rate * 3600
    reserve = float(str(recorder.parameters["disk_reserve"])) * 1e9
    free = shutil.disk_usage(there).free
    found = f"{free / 1e9:.1f} GB free, an hour takes up to {hour / 1e9:.1f} GB"
    if free < reserve:
        yield Finding("disk", "failure", found, "make room, or bags:= names another disk")
    else:
        short = free < reserve + hour
        yield Finding("disk", "warning" if short else "ok", found, "make room for more than that" * short)


CHECKS: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    check_domain,
    check_clock,
    check_shared_memory,
    check_qos,
    check_drivers,
    check_arm,
    check_policy,
    check_disk,
)


def _rate(contract: Contract, topics: set[str]) -> tuple[float, float] | None:
    """Hz at which messages on these topics of ours must come, at least and at most; None if it does not matter."""
    if "/joint_states" in topics:
        return max(20.0, 2.0 * contract.control_rate), math.inf
    if contract.observation[contract.reference].topic in topics:
        return contract.control_rate * (1 - RATE_SLACK), contract.control_rate * (1 + RATE_SLACK)
    keys = [k for k in (*contract.observation.values(), *contract.auxiliary.values()) if k.topic in topics]
    return (max(1.0 / key.max_age for key in keys), math.inf) if keys else None


def _frame(found: Mapping[str, Any], kinds: set[str]) -> str:
    """The frame that what was heard is in; empty where it says none, or has none."""
    if "cdr" not in found or not kinds & set(messages.IN_SPACE):
        return ""
    return messages.frame_of(base64.b64decode(found["cdr"]))


def _measured(found: Mapping[str, Any]) -> float:
    """Hz."""
    span = found.get("last", 0.0) - found.get("first", 0.0)
    return float((found["messages"] - 1) / span) if found["messages"] > 1 and span > 0 else 0.0
