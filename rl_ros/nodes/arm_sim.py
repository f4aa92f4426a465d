"""arm_sim: PyBullet behind the topics of an arm driven by ros2_control."""

from rl_ros.episodes import messages
from rl_ros.errors import UserError
from rl_ros.nodes.base import Node, steady
from rl_ros.resources import share_file
from rl_ros.robots.arm import Arm
from rl_ros.robots.bin import make_world, object_names, objects_state

CAMERA = "camera/image_raw"
OBJECT_POSES, OBJECTS = ("object/pose", "object_2/pose"), "objects/state"
"""Where the first objects of a scene are, and all that lie in a tray."""
CAMERA_FRAME = "camera_optical_frame"
EARLY = 0.1
"""Share of a state period that a timer may fire before the period is over."""


class ArmSim(Node):
    """Real time: the world moves with the wall clock and takes commands as they come.

    Lockstep: it moves one control period once the tick's action and judgement are both there, and
    stands still after a judgement that ends the episode. So a run depends on its seed alone.
    """

    def __init__(self) -> None:
        super().__init__("arm_sim")
        if self.settings["arm"] != "panda":
            raise UserError(f"node arm_sim: arm: only the panda is simulated here, got '{self.settings['arm']}'.")
        self.arm = Arm()
        self.world = make_world(
            share_file(f"sim/scenes/{self.settings['scene']}.yaml"),
            self.arm,
            self.settings["physics_rate"],
            self.contract,
            objects=self.settings["objects"],
            randomise=self.settings["randomise"],
        )
        self.lockstep = self.settings["lockstep"]
        self.world_began = self.contract.period_ns
        """Stamp of the moment the world was last reset, nanoseconds."""
        self.state_period = 1.0 / self.settings["state_rate"]
        self.steps, self.due_at = 0, steady()
        """State periods since the reset, in real time, and when the next one is due, s."""
        self.published_at = 0.0
        self.latencies: list[float] = []
        self.due: set[str] = set()
        """What the tick at hand still waits for, in lockstep."""
        self.named = {topic.lstrip("/") for topic in self.contract.recorded_topics()}
        self.reference = self.contract.observation[self.contract.reference].topic.lstrip("/")
        self.listen("episode/reset", self.on_reset)
        self.listen("arm_controller/joint_trajectory", self.on_arm)
        self.listen("gripper_controller/joint_trajectory", self.on_gripper)
        if self.lockstep:
            self.listen(self.contract.reward.topic, self.on_judgement)
        else:
            if self.settings["physics_rate"] % self.settings["state_rate"]:
                raise UserError("node arm_sim: state_rate: must divide physics_rate, or simulated time would drift.")
            self.world.reset(0)
            self.steps_per_tick = max(1, round(self.settings["state_rate"] / self.contract.control_rate))
            self.steady_timer(self.state_period, self.on_time)

    @property
    def now(self) -> int:
        """Simulated time, nanoseconds; never goes back."""
        return self.world_began + round(self.world.time * 1e9)

    def on_reset(self, cdr: bytes) -> None:
        """A new episode: a new world from the seed, on the same clock."""
        request = messages.decode("sensor_msgs/msg/JointState", cdr)
        number, seed = (int(v) for v in request.position)
        began = self.now + self.contract.period_ns
        self.report_latencies()
        self.world.reset(seed)
        self.world_began = began - round(self.world.time * 1e9)
        self.send("episode/reset_done", messages.joint_state_cdr(self.now, ["episode"], [number]))
        self.publish(tick=True)
        self.steps, self.due_at = 0, steady() + self.state_period

    def on_arm(self, cdr: bytes) -> None:
        """A joint trajectory of one point."""
        trajectory = messages.decode("trajectory_msgs/msg/JointTrajectory", cdr)
        stamp = messages.stamp_of(cdr)
        if self.lockstep and stamp != self.now:
            return
        self.latencies.append(steady() - self.published_at)
        point = trajectory.points[0]
        index = [trajectory.joint_names.index(name) for name in self.arm.joint_names]
        reach = point.time_from_start.sec + 1e-9 * point.time_from_start.nanosec
        self.world.set_arm_target(point.positions[index], reach)
        self.answered("arm", stamp)

    def on_gripper(self, cdr: bytes) -> None:
        """A finger trajectory of one point."""
        stamp = messages.stamp_of(cdr)
        if self.lockstep and stamp != self.now:
            return
        trajectory = messages.decode("trajectory_msgs/msg/JointTrajectory", cdr)
        self.world.set_gripper_target(float(trajectory.points[0].positions[0]))
        self.answered("gripper", stamp)

    def on_judgement(self, cdr: bytes) -> None:
        """Goes on only where the episode does."""
        judgement = messages.decode("sensor_msgs/msg/JointState", cdr)
        flags = dict(zip(judgement.name, judgement.position, strict=True))
        if not (flags["terminated"] or flags["truncated"]):
            self.answered("judgement", messages.stamp_of(cdr))
        else:
            self.report_latencies()

    def answered(self, part: str, stamp: int) -> None:
        """Lockstep: move on once the tick has everything."""
        if not self.lockstep or stamp != self.now:
            return
        self.due.discard(part)
        if not self.due:
            self.world.advance(self.contract.period)
            self.publish(tick=True)

    def on_time(self) -> None:
        """Real time: one state period has passed.

        A timer held up, as by a reset, fires for every period it missed. A world that caught up would leave the
        policy's answers behind, so it falls behind the wall clock instead.
        """
        now = steady()
        if now < self.due_at - EARLY * self.state_period:
            return
        self.due_at = max(self.due_at, now - self.state_period) + self.state_period
        self.world.advance(self.state_period)
        self.steps += 1
        self.publish(tick=self.steps % self.steps_per_tick == 0)

    def publish(self, tick: bool) -> None:
        """What the sensors see now; a tick is an observation that is to be answered.

        The contract's reference, and the camera, come with ticks alone. The camera is looked through where the contract
        names it or somebody listens. Its calibration comes with each image in real time, and once an episode in
        lockstep.

        Everything is made first and sent at once: each message that finds its reader awake saves waking it.
        """
        stamp, frame = self.now, self.contract.frame
        joints = self.world.joint_state()
        sent = {
            "clock": messages.clock_cdr(stamp),
            "joint_states": messages.joint_state_cdr(
                stamp, joints.names, joints.positions, joints.velocities, joints.efforts
            ),
            "tool/pose": messages.pose_cdr(stamp, frame, *self.world.tool_pose()),
        }
        if "tool/twist" in self.named:
            sent["tool/twist"] = messages.twist_cdr(stamp, frame, *self.world.tool_twist())
        if OBJECTS in self.named:
            names, state = object_names(self.world), objects_state(self.world)
            sent[OBJECTS] = messages.joint_state_cdr(stamp, names, state)
        else:
            for topic, pose in zip(OBJECT_POSES, self.world.object_poses().values(), strict=False):
                sent[topic] = messages.pose_cdr(stamp, frame, *pose)
        if "object/twist" in self.named:
            first = next(iter(self.world.object_twists().values()))
            sent["object/twist"] = messages.twist_cdr(stamp, frame, *first)
        if tick:
            self.due = {"arm", "gripper", "judgement"}
            if CAMERA in self.named or self.sender(CAMERA).get_subscription_count():
                pixels = self.world.image()
                height, width, _ = pixels.shape
                if not self.lockstep or self.world.time == 0.0:
                    matrix = self.world.camera_matrix()
                    sent["camera/camera_info"] = messages.camera_info_cdr(stamp, CAMERA_FRAME, matrix, height, width)
                sent[CAMERA] = messages.image_cdr(stamp, CAMERA_FRAME, pixels)
            self.published_at = steady()
        elif self.reference in sent:
            del sent[self.reference]
        for topic, cdr in sent.items():
            self.send(topic, cdr)

    def report_latencies(self) -> None:
        """Seconds from each image to the command that answers it, once an episode."""
        if self.latencies:
            names = [""] * len(self.latencies)
            self.send("arm_sim/control_latency", messages.joint_state_cdr(self.now, names, self.latencies))
            self.latencies = []

    def close(self) -> None:
        """End the simulation."""
        self.world.close()
