"""The command ``python -m benchmarks.mask_sparsity``: a pruned ResNet-20 on CIFAR-10.

Needs ``data/cifar10n`` and ``weights/cifar10_resnet20.safetensors`` under ``TETHER_SHARED``. Two
networks start from the same trained weights and see the same 5,000 images for as many epochs, at
the same rates: one is fine-tuned as it is, the other under MaskSparsity in the first half, and
without its masked channels in the second.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tether import MaskSparsity, Method, attach
from tether.machine import describe_machine
from tether.models.cifar_resnet import CifarResNet
from tether.models.pruning import remove_channels

SHARED = Path(os.environ.get("TETHER_SHARED", Path(__file__).parents[2] / "shared"))
RESULTS = Path(__file__).parent / "results" / "mask_sparsity.json"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def there() -> bool:
    """Whether data and weights are where ``TETHER_SHARED`` says."""
    return (SHARED / "data/cifar10n/cifar10n.npz").is_file() and (
        SHARED / "weights/cifar10_resnet20.safetensors"
    ).is_file()


def load(train: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images, as many of every class, their clean labels; test images and labels."""
    stored = np.load(SHARED / "data/cifar10n/cifar10n.npz")
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)

    def images(name: str) -> Tensor:
        raw = torch.from_numpy(stored[name]).permute(0, 3, 1, 2).float() / 255
        return ((raw - mean) / std).contiguous()

    labels = torch.from_numpy(stored["train_clean"].astype(np.int64))
    rows = torch.cat([torch.nonzero(labels == c).flatten()[: train // 10] for c in range(10)])
    test = torch.from_numpy(stored["test_labels"].astype(np.int64))
    return images("train_images")[rows], labels[rows], images("test_images"), test


def pretrained() -> CifarResNet:
    model = CifarResNet(20)
    model.load_state_dict(load_file(SHARED / "weights/cifar10_resnet20.safetensors"))
    return model


def fit(
    model: nn.Module, x: Tensor, y: Tensor, epochs: int, lr: float, seed: int,
    methods: tuple[Method, ...] = (),
) -> None:  # fmt: skip
    """SGD with a rate that falls to 0; images are mirrored and shifted by up to 2 pixels."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=True)
    draw = torch.Generator().manual_seed(seed)
    steps, done = epochs * (len(x) // 100), 0
    model.train()
    with attach(model, methods, optimizer, total_steps=steps) as reg:
        for _ in range(epochs):
            for rows in torch.randperm(len(x), generator=draw)[: len(x) // 100 * 100].split(100):
                for group in optimizer.param_groups:
                    group["lr"] = lr * (1 - done / steps)
                shift = torch.randint(-2, 3, (2,), generator=draw).tolist()
                images = x[rows].roll(shift, dims=(2, 3))
                if int(torch.randint(2, (1,), generator=draw)):
                    images = images.flip(3)
                reg.loss(model(images), y[rows]).backward()
                optimizer.step()
                optimizer.zero_grad()
                done += 1


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    model.eval()
    right = sum(int((model(a).argmax(1) == b).sum()) for a, b in zip(x.split(250), y.split(250),
                strict=True))  # fmt: skip
    return right / len(y)


def run(
    seed: int, train: int, epochs: int, ratio: float, weight: float, dense_too: bool
) -> dict[str, float]:
    """Accuracies and sizes of one seed; ``epochs`` in all for each of the two networks."""
    torch.manual_seed(seed)
    x, y, test_x, test_y = load(train)
    began = time.perf_counter()
    found = {"seed": float(seed), "original": accuracy(pretrained(), test_x, test_y)}
    model, method = pretrained(), MaskSparsity(weight, "prox", ratio=ratio)
    fit(model, x, y, epochs // 2, 0.02, seed, (method,))
    found["masked"] = accuracy(model, test_x, test_y)
    found |= {f"gamma_{k}": v for k, v in method.measure().items()}
    removed = remove_channels(model, method.masks(), test_x[:1])
    found["removed"] = accuracy(model, test_x, test_y)
    fit(model, x, y, epochs - epochs // 2, 0.02, seed + 1000)
    found["pruned"] = accuracy(model, test_x, test_y)
    found["flops_share"] = removed.flops_share
    found["parameters_share"] = 1 - removed.parameters[1] / removed.parameters[0]
    print(json.dumps(found), file=sys.stderr, flush=True)
    if dense_too:
        dense = pretrained()
        fit(dense, x, y, epochs // 2, 0.02, seed)
        fit(dense, x, y, epochs - epochs // 2, 0.02, seed + 1000)
        found["dense"] = accuracy(dense, test_x, test_y)
    found["seconds"] = time.perf_counter() - began
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mask_sparsity", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--train", type=int, default=5000, help="training images (default 5000)")
    parser.add_argument("--epochs", type=int, default=5, help="of each network (default 5)")
    parser.add_argument("--pruned-only", action="store_true", help="leave the dense network out")
    parser.add_argument("--ratio", type=float, default=0.45, help="channels to go (default 0.45)")
    parser.add_argument("--weight", type=float, default=2.0, help="of MaskSparsity (default 2)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help=f"write results/{RESULTS.name}")
    args = parser.parse_args()
    if not there():
        sys.exit(f"no data or weights under {SHARED}: set TETHER_SHARED")
    torch.set_num_threads(args.threads)
    rows = []
    for seed in range(args.seeds):
        rows.append(run(seed, args.train, args.epochs, args.ratio, args.weight,
                        not args.pruned_only))  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    if args.write:
        settings = {k: v for k, v in vars(args).items() if k != "write"}
        document = {"machine": describe_machine(), "settings": settings, "runs": rows}
        RESULTS.write_text(json.dumps(document, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
