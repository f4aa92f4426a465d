"""Configuration files: what is read, and the sentence for what is not."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from rl_ros import schema
from rl_ros.errors import UserError


@dataclass(frozen=True)
class Wheel:
    radius: float
    spokes: int = 32

    def __post_init__(self) -> None:
        if self.radius <= 0:
            raise ValueError(f"radius: expected a positive length, got {self.radius}.")


@dataclass(frozen=True)
class Bicycle:
    name: str
    front: Wheel
    colour: Literal["red", "blue"] = "red"
    gears: tuple[int, ...] = ()
    size: tuple[float, float] = (1.0, 2.0)
    electric: bool = False
    wheels: dict[str, Wheel] = field(default_factory=dict)
    bell: Wheel | None = None
    rack: int | str = 0
    extra: Any = None


def parse(text: str) -> Bicycle:
    return schema.parse(Bicycle, text, "bicycle.yaml")


def test_every_kind_of_value_is_read() -> None:
    text = """
        name: mine
        front: {radius: 1}
        colour: blue
        gears: [1, 2, 3]
        size: [3, 4.5]
        electric: true
        wheels: {rear: {radius: 0.5, spokes: 28}}
        bell: {radius: 0.1}
        rack: none
        extra: [anything, {at: all}]
    """
    assert parse(text) == Bicycle(
        "mine",
        Wheel(1.0),
        "blue",
        (1, 2, 3),
        (3.0, 4.5),
        True,
        {"rear": Wheel(0.5, 28)},
        Wheel(0.1),
        "none",
        ["anything", {"at": "all"}],
    )


def test_defaults_fill_what_is_left_out() -> None:
    assert parse("{name: mine, front: {radius: 0.3}}") == Bicycle("mine", Wheel(0.3))


def test_whole_numbers_serve_as_numbers_and_become_floats() -> None:
    assert isinstance(parse("{name: mine, front: {radius: 1}}").front.radius, float)


def test_null_is_only_for_what_is_optional() -> None:
    assert parse("{name: mine, front: {radius: 1}, bell: null}").bell is None
    with pytest.raises(UserError, match="electric: expected true or false, got None"):
        parse("{name: mine, front: {radius: 1}, electric: null}")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{name: 3, front: {radius: 1}}", "bicycle.yaml: name: expected text, got 3."),
        ("{name: mine, front: {radius: wide}}", "bicycle.yaml: front: radius: expected a number, got 'wide'."),
        ("{name: mine, front: {radius: true}}", "bicycle.yaml: front: radius: expected a number, got True."),
        ("{name: mine, front: {radius: .nan}}", "bicycle.yaml: front: radius: expected a number, got nan."),
        ("{name: mine, front: {radius: 1, spokes: 1.5}}", "front: spokes: expected a whole number, got 1.5."),
        ("{name: mine, front: {radius: 1, spokes: true}}", "front: spokes: expected a whole number, got True."),
        ("{name: mine, front: {radius: -1}}", "front: radius: expected a positive length, got -1.0."),
        ("{name: mine, front: 7}", "bicycle.yaml: front: expected a mapping, got 7."),
        ("{name: mine, front: {radius: 1}, colour: green}", "colour: expected one of red, blue, got 'green'."),
        ("{name: mine, front: {radius: 1}, gears: 3}", "gears: expected a list, got 3."),
        ("{name: mine, front: {radius: 1}, gears: [1, two]}", "gears[1]: expected a whole number, got 'two'."),
        ("{name: mine, front: {radius: 1}, size: [1]}", "size: expected a list of 2, got [1]."),
        ("{name: mine, front: {radius: 1}, wheels: [1]}", "wheels: expected a mapping, got [1]."),
        ("{name: mine, front: {radius: 1}, wheels: {rear: 2}}", "wheels: rear: expected a mapping, got 2."),
        ("{name: mine, front: {radius: 1}, electric: 1}", "electric: expected true or false, got 1."),
        ("{name: mine, front: {radius: 1}, rack: 1.5}", "rack: expected int or str, got 1.5."),
        ("{name: mine, front: {radius: 1}, wings: 2}", "unknown key 'wings'; expected one of: name, front, colour"),
        ("{name: mine}", "bicycle.yaml: the key 'front' is missing; it holds a mapping."),
        ("{name: mine, front: {}}", "bicycle.yaml: front: the key 'radius' is missing; it holds a number."),
        ("[1, 2]", "bicycle.yaml: expected a mapping, got [1, 2]."),
        ("", "bicycle.yaml: expected a mapping, got None."),
        ("{name: [", "bicycle.yaml: not valid YAML: "),
        ("name: !!python/object/apply:os.getcwd []", "bicycle.yaml: not valid YAML: "),
    ],
)
def test_what_is_wrong_is_named_with_its_place_and_what_was_expected(text: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(text)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_is_read_and_named_in_its_errors(tmp_path: Path) -> None:
    path = tmp_path / "bicycle.yaml"
    path.write_text("{name: mine, front: {radius: 1}}")
    assert schema.load(Bicycle, path).name == "mine"
    path.write_text("{name: mine}")
    with pytest.raises(UserError, match=f"{path}: the key 'front' is missing"):
        schema.load(Bicycle, path)


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="no such file; check the path"):
        schema.load(Bicycle, tmp_path / name)


@dataclass(frozen=True)
class Arm:
    """The text of a class is not of its first field."""

    joints: int = 6
    """How many,
    of one arm."""
    name: str = ""


@dataclass(frozen=True)
class LongArm(Arm):
    joints: int = 7
    reach: float = 1.0
    """Metres."""


def test_fields_mean_what_is_written_below_them_also_in_a_base_class() -> None:
    assert schema.meanings(LongArm) == {"joints": "How many, of one arm.", "reach": "Metres."}
