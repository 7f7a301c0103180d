"""The digits of ``benchmarks.labels``: a small network in a loop of one's own, all noises."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

NOISES = (
    "clean", "symmetric:0.1", "symmetric:0.2", "symmetric:0.3", "symmetric:0.4", "pair:0.3",
    "instance:0.3",
)  # fmt: skip
SEEDS, EPOCHS, FOLDS = (0, 1, 2), 8, 5


def train(net: Any, x: Any, given: Any, seed: int, record: str | None = None) -> Any:
    """SGD with momentum; with a record as any loop would keep it."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    from tether import attach
    from tether.labels.record import SampleRecord

    torch.manual_seed(seed)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    data = TensorDataset(x, given)
    methods = [] if record is None else [SampleRecord(record)]
    with attach(net, methods, optimizer, train_data=data, epochs=EPOCHS) as reg:
        for _ in range(EPOCHS):
            for inputs, labels in reg.batches(DataLoader(data, 32, shuffle=True)):
                optimizer.zero_grad()
                reg.loss(net(inputs), labels).backward()
                optimizer.step()
        reg.end_epoch()
    return net.eval()


def row(noise: str, seed: int) -> dict[str, Any]:
    """A network pretrained on other digits, tuned on 897 of which some labels are wrong."""
    import torch

    from benchmarks.label_cases import put_wrong
    from benchmarks.labels import cleanlab_scores, judged
    from tether.demo import task
    from tether.labels.record import read_record
    from tether.labels.score import score_classes
    from tether.labels.signals import gather

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    images, labels = task._digits()
    order = torch.randperm(len(labels), generator=generator)
    source, target = order[: task.NUM_SOURCE], order[task.NUM_SOURCE :]
    start = task._pretrain(images[source].flatten(1), labels[source], generator)
    task._forget_head(start, generator)
    x = images[target].roll(1, dims=2).transpose(1, 2).flatten(1).contiguous()
    true = labels[target].numpy()
    given = put_wrong(true, noise, 10, seed, x.numpy)
    seconds = {}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        began = time.process_time()
        with torch.enable_grad():
            net = train(copy.deepcopy(start), x, torch.as_tensor(given), seed, folder)
        seconds["run"] = time.process_time() - began
        began = time.process_time()
        features = {"pretrained": start.features(x).numpy(), "tuned": net.features(x).numpy()}
        signals = gather(given, 10, features, read_record(folder))
        scores = score_classes(signals.together(), signals.given, signals.unlearnt())
        seconds["find"] = time.process_time() - began
    began = time.process_time()
    shares, fold = np.zeros((len(true), 10)), np.random.default_rng(seed).permutation(len(true)) % 5
    for part in range(FOLDS):
        rest = torch.as_tensor(fold != part)
        net = train(copy.deepcopy(start), x[rest], torch.as_tensor(given)[rest], seed)
        with torch.no_grad():
            shares[fold == part] = net(x[~rest]).softmax(1).numpy()
    seconds["folds"] = time.process_time() - began
    probe = cleanlab_scores(
        np.exp(signals.opinions["classifier on pretrained features"]), true, given
    )
    found = scores.noise[0]
    summary = {"noise_rate": found.rate, "noise_rate_interval": list(found.interval)}
    return {
        "case": "digits", "noise": noise, "seed": seed, "size": len(true),
        **judged(scores.wrong, scores.suggested, summary, true, given),
        **cleanlab_scores(shares, true, given),
        "cleanlab on a linear probe": {**probe["cleanlab self"], "rate": probe["cleanlab rate"],
                                       "fold accuracy": probe["fold accuracy"]},
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }  # fmt: skip


def rows() -> Iterator[dict[str, Any]]:
    for noise in NOISES:
        for seed in SEEDS:
            yield row(noise, seed)
