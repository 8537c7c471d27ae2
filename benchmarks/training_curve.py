"""Draw the losses of a training run: `training_curve.py CKPT/metrics.jsonl curve.png`.

It needs matplotlib, which no other part of edgegpt uses.
"""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

SMOOTHED = 20  # each point of the training curve is the mean of this many lines of metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("metrics", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--title", default="")
    parser.add_argument("--unit", default="character", help="what is predicted; default: character")
    arguments = parser.parse_args()
    lines = [json.loads(line) for line in arguments.metrics.read_text().splitlines()]
    trained = [
        (line["step"], line["loss"], line["learning_rate"]) for line in lines if "loss" in line
    ]
    validated = [
        (line["step"], line["validation_loss"]) for line in lines if "validation_loss" in line
    ]
    steps, losses, rates = np.array(trained).T

    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes.plot(steps, losses, color="#9ecae1", linewidth=0.7, label="training, one batch")
    if len(losses) >= SMOOTHED:
        mean = np.convolve(losses, np.full(SMOOTHED, 1 / SMOOTHED), mode="valid")
        axes.plot(
            steps[SMOOTHED - 1 :], mean, color="#3182bd", label=f"training, mean of {SMOOTHED}"
        )
    axes.plot(*zip(*validated, strict=True), color="#e6550d", marker="o", label="validation")
    best = min(loss for _, loss in validated)
    axes.axhline(best, color="#e6550d", linewidth=0.7, linestyle=":")
    axes.set(
        xlabel="step", ylabel=f"cross-entropy, nats per {arguments.unit}", title=arguments.title
    )
    rate = axes.twinx()
    rate.plot(steps, rates, color="#bdbdbd", linewidth=1, label="learning rate")
    rate.set(ylabel="learning rate", ylim=(0, None))
    axes.set_zorder(rate.get_zorder() + 1)
    axes.patch.set_visible(False)
    handles = [*axes.get_legend_handles_labels()[0], *rate.get_legend_handles_labels()[0]]
    axes.legend(handles=handles, loc="upper right")
    figure.savefig(arguments.out)


if __name__ == "__main__":
    main()
