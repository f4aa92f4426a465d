"""Q(image, state of the hand, action) that looks into the picture where the action would bring the hand.

A network that sees the picture as one vector must learn from grasps alone that an object on the left is for a hand on
the left. Here the picture becomes a map of features, and an action is judged by the features at the places on the
floor of the tray that the palm and the two fingers would be above. What is learned at one place holds at all of them,
as in visual pushing and grasping (Zeng et al. 2018, 1803.09956), but for any pose of the hand, not those of a grid.
The camera's calibration says which pixel shows which place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rl_ros.contract import Contract
from rl_ros.errors import UserError
from rl_ros.networks.layers import multilayer
from rl_ros.networks.policies import ActionLayout

NEEDED = ("image", "tool_position", "tool_orientation", "finger_position")
"""Observation keys that are looked at."""
FLOOR = 0.015
"""m, the height of the places that are looked at: half way up what lies in the tray."""
REACH = 0.035
"""m from the middle of the hand to each finger."""
CENTRE, SPAN = (0.5, 0.0, 0.12), (0.15, 0.15, 0.12)
"""m: positions less the one, divided by the other, are about -1 to 1."""
OPEN = 0.08
"""m between open fingers."""
THIN = 0.004
"""m between fingers that hold something thin, which must look like much more than nothing."""
UNKNOWN = -1.5
"""Logit of what is known of nothing yet: few grasps succeed, and the best of many guesses must not look like one."""
ALIKE = 32
"""Products of what is seen and what is wanted."""
STRIDE = 4
"""Pixels to a cell of the map."""


@dataclass(frozen=True)
class Scene:
    """A batch of observations, encoded once for all the actions that are judged in them."""

    cells: Tensor
    """float32 (batch * rows * columns, channels): the map of features, cell by cell."""
    hand: Tensor
    """float32 (batch, 6): x, y, z m, cosine and sine of the yaw, and m between the fingers."""
    goal: Tensor
    """float32 (batch, G): the latent of a picture of what is wanted; G is 0 where anything is."""


class SceneEncoder(nn.Module):
    """Observations as maps of features, and the hand's pose.

    Args:
        contract: what the observation holds.
        channels: features of a cell.
    """

    def __init__(self, contract: Contract, channels: int) -> None:
        super().__init__()
        for name in NEEDED:
            if name not in contract.observation:
                raise UserError(
                    f"contract {contract.name} has no observation {name}; qt_opt needs {', '.join(NEEDED)}."
                )
        self.height, self.width = contract.observation["image"].shape[:2]
        self.rows, self.columns = self.height // STRIDE, self.width // STRIDE
        self.channels = channels
        self.goal_size = contract.goal.desired_goal.shape[0] if contract.goal.policy_input else 0
        # Patches first: strided 3x3 convolutions see the same and take half as long again (measured).
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32, STRIDE, STRIDE), nn.ReLU(inplace=True), nn.Conv2d(32, 32, 3, 1, 1), nn.ReLU(inplace=True),
            nn.Conv2d(32, 32, 3, 1, 1), nn.ReLU(inplace=True), nn.Conv2d(32, channels, 1), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # which torch's stubs do not know
        # What the recipe asks of every policy's encoder.
        self.images = nn.ModuleDict({"image": nn.Identity()})
        self.vectors = nn.ModuleDict()
        self.image_size = 0

    def forward(self, observation: Mapping[str, Tensor], desired_goal: Tensor) -> Tensor:
        """The features of each observation as a row, float32 (batch, cells * channels + 6 + G), for `scene`."""
        # Channels last, as images come: nothing has to be moved.
        image = (observation["image"].float() * (1.0 / 64.0) - 2.0).permute(0, 3, 1, 2)
        cells = self.layers(image).permute(0, 2, 3, 1).flatten(1)
        x, y, z, w = observation["tool_orientation"].float().unbind(1)
        # Cosine and sine of the heading of a tool that points down.
        cosine, sine = 1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y + w * z)
        gap = observation["finger_position"].float().sum(1)
        hand = torch.cat([observation["tool_position"].float(), torch.stack([cosine, sine, gap], dim=1)], dim=1)
        return torch.cat([cells, hand, desired_goal[:, : self.goal_size].float()], dim=1)

    def scene(self, features: Tensor) -> Scene:
        """What `forward` has joined."""
        size = self.rows * self.columns * self.channels
        return Scene(
            features[:, :size].reshape(-1, self.channels), features[:, size : size + 6], features[:, size + 6 :]
        )


class GraspQ(nn.Module):
    """The value of actions in encoded observations, as the logit of a probability.

    Args:
        contract: what an action holds.
        encoder: whose scenes are judged.
        projection: of the camera, 3 x 4 row by row: homogeneous positions, m, to homogeneous pixels.
        hidden_size: width of the hidden layers.
        hidden_layers: how many.
    """

    centre: Tensor
    span: Tensor
    still: Tensor

    def __init__(
        self,
        contract: Contract,
        encoder: SceneEncoder,
        projection: Sequence[float],
        hidden_size: int,
        hidden_layers: int,
    ) -> None:
        super().__init__()
        self.layout = ActionLayout(contract)
        names = [name for name, channel in contract.action.items() for _ in channel.names or range(channel.shape[0])]
        for name in ("linear_velocity", "yaw_velocity", "gripper"):
            if name not in names:
                raise UserError(f"contract {contract.name} has no action {name}, which qt_opt needs.")
        self.velocity = names.index("linear_velocity")
        self.yaw = names.index("yaw_velocity")
        self.terminate = names.index("terminate") if "terminate" in names else -1
        self.period = contract.period
        still = torch.zeros(len(names))
        still[names.index("gripper")] = -1.0
        if self.terminate >= 0:
            still[self.terminate] = 1.0
        self.register_buffer("still", still, persistent=False)
        self.rows, self.columns = encoder.rows, encoder.columns
        # x, y and 1 of a place on the floor to its homogeneous pixel.
        matrix = torch.tensor(projection, dtype=torch.float32).view(3, 4)
        matrix = torch.cat([matrix[:, :2], matrix[:, 2:3] * FLOOR + matrix[:, 3:]], dim=1)
        self.floor_projection: list[list[float]] = matrix.tolist()
        self.register_buffer("centre", torch.tensor(CENTRE), persistent=False)
        self.register_buffer("span", torch.tensor(SPAN), persistent=False)
        self.channels = encoder.channels
        # The first layer in parts, added up: what they look at need not be copied side by side.
        self.see = nn.Linear(3 * encoder.channels, hidden_size, bias=False)
        self.reach = nn.Linear(2 + len(names), hidden_size, bias=False)
        self.hold = nn.Linear(3 + 2, hidden_size)
        self.goal_size = encoder.goal_size
        if self.goal_size:
            # Whether what the palm would be above is what is wanted: products of what both are said to be like.
            self.like = nn.Linear(encoder.channels, ALIKE, bias=False)
            self.wanted = nn.Linear(encoder.goal_size, ALIKE)
            self.alike = nn.Linear(ALIKE, hidden_size, bias=False)
        self.rest = multilayer([hidden_size] * hidden_layers + [1])
        nn.init.constant_(self.rest[-1].bias, UNKNOWN)  # type: ignore[arg-type] # a Linear's

    def forward(self, scene: Scene, action: Tensor) -> Tensor:
        """Logits float32 (batch, n) of n actions in each observation, (batch, n, A) scaled to -1..1."""
        return self.judge(scene, self.plain(action))

    def judge(self, scene: Scene, action: Tensor) -> Tensor:
        """As `forward`, of actions that `plain` has seen; (1, n, A) are judged in each observation."""
        batch, count = len(scene.hand), action.shape[1]
        low, half = self.layout.low * self.period, (self.layout.high - self.layout.low) / 2.0 * self.period
        along, yaw = slice(self.velocity, self.velocity + 2), self.yaw
        middle = scene.hand[:, None, :2] + (action[..., along] * half[along] + (low + half)[along])
        turn = action[..., yaw] * half[yaw] + (low + half)[yaw]
        before, across = scene.hand[:, 3, None], scene.hand[:, 4, None]
        c, s = torch.cos(turn), torch.sin(turn)
        cosine, sine = before * c - across * s, across * c + before * s
        # The fingers are along the tool's y, which at a yaw is (sin, -cos).
        (x, y), aside, ahead = middle.unbind(-1), sine * REACH, cosine * -REACH
        x, y = torch.stack([x, x - aside, x + aside], dim=-1), torch.stack([y, y - ahead, y + ahead], dim=-1)
        seen = self.look(scene.cells, x.view(batch, -1), y.view(batch, -1)).view(batch * count, 3 * self.channels)
        turned = torch.stack([cosine * cosine - sine * sine, 2.0 * cosine * sine], dim=-1)
        gap = scene.hand[:, 5:]
        # Fingers that are nearly closed are the question: some millimetres tell something thin from nothing.
        fingers = torch.cat([gap / OPEN * 2.0 - 1.0, torch.exp(-gap / THIN)], dim=1)
        held = torch.cat([(scene.hand[:, :3] - self.centre) / self.span, fingers], dim=1)
        held = held[:, None].expand(-1, count, -1)
        told = torch.cat([turned, action.expand(batch, -1, -1), held], dim=-1).flatten(0, 1)
        weight = torch.cat([self.reach.weight, self.hold.weight], dim=1)
        first = torch.addmm(self.hold.bias, told, weight.t()).addmm_(seen, self.see.weight.t())
        if self.goal_size:
            alike = self.compare(seen[:, : self.channels].view(batch, count, -1), scene.goal).view(batch * count, ALIKE)
            first = first.addmm_(alike, self.alike.weight.t())
        logits: Tensor = self.rest(torch.relu_(first)).view(batch, count)
        return logits

    def compare(self, seen: Tensor, goal: Tensor) -> Tensor:
        """How alike n places (batch, n, channels) and what is wanted (batch, G) are, (batch, n, `ALIKE`)."""
        alike: Tensor = self.like(seen) * self.wanted(goal)[:, None]
        return alike

    def plain(self, action: Tensor) -> Tensor:
        """Actions (..., A) scaled to -1..1, of which those that terminate ask for nothing else: it would not happen."""
        if self.terminate < 0:
            return action
        return torch.where(action[..., self.terminate : self.terminate + 1] > 0.0, self.still, action)

    def look(self, cells: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Features (batch, n, channels) at places on the floor, (batch, n) m each, between the cells around them."""
        batch = x.shape[0]
        u, v, w = (x * row[0] + (y * row[1] + row[2]) for row in self.floor_projection)
        # Pixels to cells; the middle of the first cell is at pixel (STRIDE - 1) / 2.
        scale, middle = w.reciprocal() / STRIDE, (STRIDE - 1) / 2 / STRIDE
        column = (u * scale - middle).clamp(0.0, self.columns - 1.001)
        row = (v * scale - middle).clamp(0.0, self.rows - 1.001)
        left, top = column.floor(), row.floor()
        right, down = column - left, row - top
        first = torch.arange(batch)[:, None] * (self.rows * self.columns)
        corner = first + (top * self.columns + left).long()
        both = right * down
        share = torch.stack([1 - right - down + both, right - both, down - both, both], dim=-1)
        below = corner + self.columns
        around = torch.stack([corner, corner + 1, below, below + 1], dim=-1)
        if torch.onnx.is_in_onnx_export():  # which knows no sum of rows in one step
            return (nn.functional.embedding(around, cells) * share[..., None]).sum(dim=-2)
        seen = nn.functional.embedding_bag(
            around.view(-1, 4), cells, mode="sum", per_sample_weights=share.reshape(-1, 4)
        )  # ten times as fast as taking the rows and adding them up
        return seen.view(batch, -1, self.channels)
