"""Faults in the live graph stop the arm in time, and the bag says why; all of them are in benchmarks/faults.py."""

from pathlib import Path

import pytest

from rl_ros.contract import Contract
from rl_ros.nodes.spin import ros

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CHOSEN = ("SIGSTOP", "NaN in the action", "clock jumps ahead", "torn bundle")
RATE = 5.0
"""Hz, so that a busy machine is not what is tested."""


def test_faults_stop_the_arm_within_two_control_periods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    faults, live_graph, crash = (__import__(name) for name in ("faults", "live_graph", "crash"))
    (tmp_path / "contract.yaml").write_text(
        Contract.load(faults.CONTRACT).to_yaml().replace("control_rate: 20.0", f"control_rate: {RATE}")
    )
    contract = Contract.load(str(tmp_path / "contract.yaml"))
    good = live_graph.circling_bundle(tmp_path / "bundle", contract)
    every = faults.faults(faults.bundles(tmp_path, contract), contract.period)
    chosen = [fault for fault in every if any(word in fault.name for word in CHOSEN)]
    assert len(chosen) == len(CHOSEN)
    with crash.ros_environment(), ros():  # noqa: SIM117  (a rig needs the context)
        with live_graph.Rig(tmp_path, tmp_path / "contract.yaml", good, {}, {}, {}) as live:
            outcomes = [faults.run(live, fault, 0.07, contract.period) for fault in chosen]
    for outcome in outcomes:
        faults.read_reasons(live.bags, outcome)
    assert {o.fault.name: o.problems for o in outcomes if not o.passed} == {}
