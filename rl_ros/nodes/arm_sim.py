"""arm_sim: PyBullet behind the topics of an arm driven by ros2_control."""

from rl_ros.episodes import messages
from rl_ros.errors import UserError
from rl_ros.nodes.base import Node, steady
from rl_ros.resources import share_file
from rl_ros.robots.arm import Arm
from rl_ros.robots.pybullet_arm import PyBulletArm, Scene

CAMERA_FRAME = "camera_optical_frame"


class ArmSim(Node):
    """Real time: the world moves with the wall clock and takes commands as they come.

    Lockstep: it moves one control period once the tick's action and judgement are both there, and
    stands still after a judgement that ends the episode. So a run depends on its seed alone.
    """

    def __init__(self) -> None:
        super().__init__("arm_sim")
        self.arm = Arm()
        scene = Scene.load(share_file(f"sim/scenes/{self.settings['scene']}.yaml"))
        self.world = PyBulletArm(scene, self.arm, self.settings["physics_rate"], self.settings["randomise"])
        self.lockstep = self.settings["lockstep"]
        self.world_began = self.contract.period_ns
        """Stamp of the moment the world was last reset, nanoseconds."""
        self.published_at = 0.0
        self.moved_at = steady()
        self.latencies: list[float] = []
        self.due: set[str] = set()
        """What the tick at hand still waits for, in lockstep."""
        self.listen("episode/reset", self.on_reset)
        self.listen("arm_controller/joint_trajectory", self.on_arm)
        self.listen("gripper_controller/joint_trajectory", self.on_gripper)
        if self.lockstep:
            self.listen(self.contract.reward.topic, self.on_judgement)
        else:
            if self.settings["physics_rate"] % self.settings["state_rate"]:
                raise UserError("node arm_sim: state_rate: must divide physics_rate, or simulated time would drift.")
            self.world.reset(0)
            self.steps_per_image = max(1, round(self.settings["state_rate"] / self.contract.control_rate))
            self.steps = 0
            self.state_period = 1.0 / self.settings["state_rate"]
            self.steady_timer(1.0 / self.settings["state_rate"], self.on_time)

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
        self.publish(image=True)
        self.moved_at = steady()

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
            self.publish(image=True)

    def on_time(self) -> None:
        """Real time: one state period has passed.

        A timer held up, as by a reset, fires for every period it missed. A world that caught up would leave the
        policy's answers behind, so it falls behind the wall clock instead.
        """
        if steady() - self.moved_at < self.state_period / 2:
            return
        self.moved_at = steady()
        self.world.advance(self.state_period)
        self.steps += 1
        self.publish(image=self.steps % self.steps_per_image == 0)

    def publish(self, image: bool) -> None:
        """What the sensors see now; an image is, in lockstep, the tick that is to be answered.

        The camera's calibration comes with each image in real time, and once an episode in lockstep.

        Everything is made first and sent at once: each message that finds its reader awake saves waking it.
        """
        stamp, frame = self.now, self.contract.frame
        joints = self.world.joint_state()
        first = next(iter(self.world.object_poses().values()))
        sent = {
            "clock": messages.clock_cdr(stamp),
            "joint_states": messages.joint_state_cdr(
                stamp, joints.names, joints.positions, joints.velocities, joints.efforts
            ),
            "tool/pose": messages.pose_cdr(stamp, frame, *self.world.tool_pose()),
            "object/pose": messages.pose_cdr(stamp, frame, *first),
        }
        if image:
            self.due = {"arm", "gripper", "judgement"}
            pixels = self.world.image()
            height, width, _ = pixels.shape
            if not self.lockstep or self.world.time == 0.0:
                matrix = self.world.camera_matrix()
                sent["camera/camera_info"] = messages.camera_info_cdr(stamp, CAMERA_FRAME, matrix, height, width)
            sent["camera/image_raw"] = messages.image_cdr(stamp, CAMERA_FRAME, pixels)
            self.published_at = steady()
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
