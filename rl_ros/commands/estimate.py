"""`rl_ros evaluate --offline`: a policy judged by recordings."""

import argparse
import json

from rl_ros.commands.console import console, progress, show
from rl_ros.errors import UserError


def run_offline(options: argparse.Namespace) -> int:
    """Judge a run by episodes that it has not learned from, without a robot."""
    if options.run_directory is None:
        raise UserError("--offline judges a RUN of `rl_ros train`; name one.")
    import torch

    from rl_ros.training.estimate import Settings, estimate
    from rl_ros.training.estimate_page import write_estimate_page
    from rl_ros.training.runs import held_out_rows, restore

    torch.set_num_threads(1)
    bundle, memory, rows = held_out_rows(options.run_directory, options.bags)
    settings = Settings()
    with progress() as bar:
        task = bar.add_task("fitting critics", total=settings.updates)
        found = estimate(
            memory,
            rows,
            restore(bundle),
            settings=settings,
            progress=lambda update: bar.update(task, completed=update + 1),
        )
    out = options.out or options.run_directory / "offline_evaluation"
    page = out / "report.html"
    write_estimate_page(found, f"{options.run_directory.name}: what recordings say of the policy", page)
    summary = found.summary()
    (out / "estimate.json").write_text(json.dumps(summary, indent=1) + "\n")
    show({name: value for name, value in summary.items() if name != "recommendation"}, str(bundle.directory))
    console.print(f"page: {page}")
    console.print(found.recommendation, markup=False, highlight=False, soft_wrap=True)
    print(json.dumps(summary))
    return 0
