"""goal_encoder: turns a goal into the contract's desired goal, and images into latents."""

import json
from collections import deque

import numpy as np

from rl_ros.contract import Key
from rl_ros.episodes import messages
from rl_ros.episodes.assemble import KEPT, KEPT_NS
from rl_ros.episodes.pictures import COMPRESSED, IMAGE, picture
from rl_ros.errors import UserError
from rl_ros.networks.image_encoder import ImageEncoder, load_encoder
from rl_ros.nodes.base import Node
from rl_ros.tasks.task import make_task

GOAL_POSITION = Key("/goal/pose", "geometry_msgs/msg/PoseStamped", "pose.position", (3,), "float64", "m")


class GoalEncoder(Node):
    """The goal that counts is the last one to arrive: an episode's own, until somebody publishes another, whatever its
    stamp. An episode whose start tells none keeps the last goal.

    A goal is a position on `goal/pose`, or where the contract's goals are images a picture on `goal/image`: it becomes
    a latent, if it is like something that the image encoder has learned from, and an episode's own goal is then one
    that the encoder imagines. With each tick of the camera the latent of its image is published, too.

    A contract whose goal is `exact` is given it with the stamp of each tick, so that policy, reward and recording agree
    on the tick from which a new goal counts. One whose goal is `held` is given each goal once, with the goal's own
    stamp.
    """

    def __init__(self) -> None:
        super().__init__("goal_encoder")
        self.task = make_task(self.contract.task)
        self.key = self.contract.goal.desired_goal
        self.start: int | None = None
        """Stamp of the running episode's first tick, ns."""
        self.told = False
        """Whether the start has told the episode's goal; then the same one comes on `goal/pose` as well."""
        self.goal: np.ndarray | None = None
        """The desired goal that counts, as the contract has it."""
        self.score: float | None = None
        """Of the picture that it is from, at most 1; None where it is from none."""
        self.early: tuple[str, bytes] | None = None
        """Type and bytes of the last goal that came between two episodes."""
        self.ticks: deque[bytes] = deque(maxlen=KEPT)
        """The messages that make the ticks, which have no goal yet."""
        self.first: np.ndarray | None = None
        """The running episode's first image."""
        self.encoder = self.load() if self.contract.goal.image else None
        if self.encoder is None:
            self.listen("goal/pose", lambda cdr: self.on_goal(GOAL_POSITION.type, cdr))
        else:
            self.camera = self.contract.camera
            self.listen("goal/image", lambda cdr: self.on_goal(IMAGE, cdr))
            self.listen("goal/image/compressed", lambda cdr: self.on_goal(COMPRESSED, cdr))
        self.listen("episode/event", self.on_event)
        if self.encoder is not None:
            self.listen(self.camera.topic, self.on_tick)
        elif self.key.alignment != "held":
            self.listen(self.contract.observation[self.contract.reference].topic, self.on_tick)

    def load(self) -> ImageEncoder:
        """The image encoder, which must be one for the contract's camera and latents."""
        if not self.settings["encoder"]:
            raise UserError(
                f"node goal_encoder: encoder: must be given, as the goals of {self.contract.name} are images; a policy "
                "trained on images holds one."
            )
        found = load_encoder(self.settings["encoder"])
        fits = self.contract.camera.shape, self.contract.latent.shape
        if (found.shape, (found.latent,)) != fits:
            raise UserError(
                f"{found.directory}: an encoder of images {list(found.shape)} to {found.latent} numbers; contract "
                f"{self.contract.name} has images {list(fits[0])} and {fits[1][0]} numbers."
            )
        return found

    def on_goal(self, message_type: str, cdr: bytes) -> None:
        """A goal, the episode manager's or a person's; one that cannot be meant is refused, and the old one stays."""
        stamp = messages.stamp_of(cdr)
        if self.start is None:
            self.early = message_type, cdr
        elif message_type != GOAL_POSITION.type:
            self.on_picture(message_type, cdr)
        elif not (self.told and stamp == self.start):
            self.on_position(cdr)

    def on_position(self, cdr: bytes) -> None:
        """A goal as a position."""
        frame, position = messages.frame_of(cdr), messages.value(GOAL_POSITION, cdr)
        if frame not in ("", self.contract.frame):
            self.refuse(f"a goal in frame '{frame}'; it is expected in {self.contract.frame}")
        elif not np.isfinite(position).all():
            self.refuse(f"a goal that is not finite: {position.tolist()}")
        else:
            self.take(self.task.goal_vector(position), messages.stamp_of(cdr))

    def on_picture(self, message_type: str, cdr: bytes) -> None:
        """A goal as an image."""
        assert self.encoder is not None
        try:
            image = picture(message_type, cdr, self.camera)
        except messages.MessageError as error:
            self.refuse(f"a picture that cannot be read: {error}")
            return
        look, stamp = self.encoder.look(image, image if self.first is None else self.first), messages.stamp_of(cdr)
        self.show("goal/reconstruction", stamp, look.reconstruction)
        about = {"stamp": str(stamp), "score": f"{look.score:.3f}"}
        if look.score > 1.0:
            self.refuse(
                f"a picture like nothing the encoder has learned from: score {look.score:.2f}, at most 1", about
            )
            return
        self.score = look.score
        self.take(look.latent, stamp)
        text = f"follows a picture of score {look.score:.2f}"
        self.send("diagnostics", messages.status_cdr(0, "goal_encoder", text, about))

    def on_event(self, cdr: bytes) -> None:
        """Episodes begin and end."""
        event = messages.status_of(cdr)
        if event.name == "prepare":
            self.start = None
            self.get_ready(int(event.values["episode"]))
        elif event.name == "start":
            self.start, self.told, self.first = event.stamp, "goal" in event.values, None
            early, self.early = self.early, None
            if self.encoder is not None:
                if self.told or self.score is None:
                    self.imagine(int(event.values["seed"]))
                if early is not None:
                    self.on_goal(*early)
            elif self.told:
                self.take(self.task.goal_vector(np.array(json.loads(event.values["goal"]))), event.stamp)
            elif early is not None:
                self.on_goal(*early)
            elif self.goal is not None:
                self.take(self.goal, event.stamp)
            self.answer()

    def on_tick(self, cdr: bytes) -> None:
        """An observation wants a goal."""
        if self.start is None:
            stamp = messages.stamp_of(cdr)
            while self.ticks and abs(messages.stamp_of(self.ticks[0]) - stamp) > KEPT_NS:
                self.ticks.popleft()
        self.ticks.append(cdr)
        self.answer()

    def refuse(self, text: str, about: dict[str, str] | None = None) -> None:
        """Say what is wrong with a goal."""
        self.get_logger().error(f"refused: {text}")
        self.report(f"refused: {text}", values=about)

    def imagine(self, seed: int) -> None:
        """Take a goal of the prior, the same for the same seed; as in training, the latent of an image of it."""
        assert self.encoder is not None
        latent = np.random.default_rng([seed, 0x1A6]).normal(size=self.encoder.latent).astype(np.float32)
        if not self.encoder.conditional:
            latent = self.encoder.imagined(latent)
        self.score = None
        self.take(latent, self.start or 0)

    def take(self, goal: np.ndarray, stamp: int) -> None:
        """From now on this is the goal."""
        self.goal = goal
        if self.key.alignment == "held":
            self.tell(stamp)
        if self.encoder is not None and not self.encoder.conditional:
            self.show("goal/imagined", stamp, self.encoder.decode(goal))
        self.answer()

    def answer(self) -> None:
        """Give each tick of the running episode its goal, and its image's latent."""
        if self.start is None or self.goal is None:
            return
        while self.ticks:
            cdr = self.ticks.popleft()
            if (stamp := messages.stamp_of(cdr)) >= self.start:
                if self.encoder is not None:
                    self.encode(stamp, cdr)
                self.tell(stamp)

    def encode(self, stamp: int, cdr: bytes) -> None:
        """Publish the latent of a camera's image, and how far it is from the goal's."""
        assert self.encoder is not None
        assert self.goal is not None
        try:
            image = messages.value(self.camera, cdr)
        except messages.MessageError as error:
            text = f"{self.camera.topic}: {error}"
            self.send("diagnostics", messages.status_cdr(0, "goal_encoder", text, {}, messages.ERROR))
            return
        self.first = image if self.first is None else self.first
        latent, key = self.encoder.encode(image, self.first), self.contract.latent
        self.send(key.topic, messages.joint_state_cdr(stamp, key.names, latent, frame=self.encoder.frame))
        apart = float(np.linalg.norm(latent.astype(np.float64) - self.goal))
        self.send("goal/distance", messages.joint_state_cdr(stamp, ["distance", "score"], [apart, self.score or 0.0]))

    def tell(self, stamp: int) -> None:
        """Publish the goal as the contract has it."""
        assert self.goal is not None
        frame = "" if self.encoder is None else self.encoder.frame
        self.send(self.key.topic, messages.joint_state_cdr(stamp, self.key.names, self.goal, frame=frame))

    def show(self, topic: str, stamp: int, image: np.ndarray) -> None:
        """Publish an image for people to look at."""
        self.send(topic, messages.image_cdr(stamp, "", image))
