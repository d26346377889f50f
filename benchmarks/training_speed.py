"""Measure how fast the founding network and the default one train and recognises, against plain float32.

    python benchmarks/training_speed.py --repeats 5

The ways are run in turn, so that a machine whose speed drifts slows all of them; medians over the repeats, one thread.
Patches are noise: the time of a dense network does not depend on what it sees.
"""

import argparse
import statistics
import time
from contextlib import nullcontext
from unittest import mock

import numpy as np
import torch
from torch.nn import functional

from sentinode.algorithms import efficientnet_lite_network
from sentinode.algorithms.fine_tuning import fine_tunable
from sentinode.algorithms.layers import build_network
from sentinode.algorithms.paper_cnn import PAPER_LAYERS
from sentinode.algorithms.training import use_bf16
from sentinode.seeds import stream

NETWORKS = {
    "paper-cnn": lambda: build_network(PAPER_LAYERS, (96, 96), 2, seed=1),
    "imagenet-cnn": lambda: fine_tunable(144, 2, dropout=0.2, seed=1),
}
WAYS = {
    "float32, channels first": (torch.float32, torch.contiguous_format),
    "float32, channels last": (torch.float32, torch.channels_last),
    "bf16, channels first": (torch.bfloat16, torch.contiguous_format),
    "bf16, channels last": (torch.bfloat16, torch.channels_last),
}
PLAIN = "float32, channels first"
BEST = "bf16, channels last"
TORCHS_OWN = "bf16, channels last, torch's own way back"
"""Of the default network only: its depthwise convolutions go back in bf16, too."""


def main(repeats: int, batches: int, batch_size: int) -> None:
    """Measure and print a Markdown table."""
    torch.set_num_threads(1)
    pixels = stream(1, "speed").integers(0, 256, (batch_size, 3, 96, 96)).astype(np.float32) / 128 - 1
    ways = WAYS if use_bf16("auto", torch.device("cpu")) else {k: v for k, v in WAYS.items() if "float32" in k}
    own = {TORCHS_OWN: ways[BEST]} if BEST in ways else {}
    for name, build in NETWORKS.items():
        seconds: dict[tuple[str, str], list[float]] = {}
        for _ in range(repeats):
            for way, (kind, layout) in ways.items() if name == "paper-cnn" else (*ways.items(), *own.items()):
                network = build().to(memory_format=layout)
                batch = torch.from_numpy(pixels).to(memory_format=layout)
                as_torch_does = mock.patch.object(efficientnet_lite_network, "_trains_in_bf16", return_value=False)
                with as_torch_does if way == TORCHS_OWN else nullcontext():
                    for task, run in (("forward", _forward), ("training", _train)):
                        run(network, batch, kind, 1)  # kernels are chosen at the first call
                        start = time.process_time()
                        run(network, batch, kind, batches)
                        seconds.setdefault((way, task), []).append(time.process_time() - start)
        print(f"| {name}: one thread, patches a second of CPU time | forward | training |\n|---|---:|---:|")
        for way in dict.fromkeys(way for way, _ in seconds):
            cells = []
            for task in ("forward", "training"):
                rate = batches * batch_size / statistics.median(seconds[way, task])
                ratio = statistics.median(seconds[PLAIN, task]) / statistics.median(seconds[way, task])
                cells.append(f"{rate:.0f} ({ratio:.1f} times)")
            print(f"| {way} | {cells[0]} | {cells[1]} |", flush=True)
        print()


def _forward(network: torch.nn.Module, batch: torch.Tensor, kind: torch.dtype, batches: int) -> None:
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind is torch.bfloat16):
        for _ in range(batches):
            network(batch)


def _train(network: torch.nn.Module, batch: torch.Tensor, kind: torch.dtype, batches: int) -> None:
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4)
    target = torch.zeros(len(batch), dtype=torch.int64)
    for _ in range(batches):
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind is torch.bfloat16):
            logits = network(batch)
        functional.cross_entropy(logits.float(), target).backward()
        optimiser.step()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=32)
    main(**vars(parser.parse_args()))
