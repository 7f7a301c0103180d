"""Slow NumPy twins: features tied to given ones, aligned or predicted; views on the sphere."""

from __future__ import annotations

import math

import numpy as np

Array = np.ndarray


def cosine(a: Array, b: Array) -> float:
    return float(a @ b) / (math.sqrt(float(a @ a)) * math.sqrt(float(b @ b)))


def feature_proximity(h: Array, h0: Array, distance: str, reduction: str) -> float:
    total = 0.0
    for row, start in zip(h, h0, strict=True):
        if distance == "cosine":
            total += 1 - cosine(row, start)
            continue
        square = sum((a - b) ** 2 for a, b in zip(row, start, strict=True))
        total += square / len(row) if reduction == "mean" else square
    return total / len(h)


def anchored(h0: Array, y: list[int], lw: float, lh: float, beta: float, sweeps: int) -> Array:
    """Columns are samples, as printed: W = Y H^T (H H^T + N lw I)^-1, then H for that W."""
    width, samples = h0.shape[1], len(h0)
    one_hot = np.zeros((max(y) + 1, samples))
    for i, label in enumerate(y):
        one_hot[label, i] = 1.0
    start = h0.T
    h = start.copy()
    for _ in range(sweeps):
        w = one_hot @ h.T @ np.linalg.inv(h @ h.T + samples * lw * np.eye(width))
        h = np.linalg.inv(w.T @ w + (lh + beta) * np.eye(width)) @ (w.T @ one_hot + beta * start)
    return h.T


def alignment(tokens: Array, teacher: Array, mask: Array | None = None) -> float:
    """Minus the cosine, averaged over the tokens of a sample, then over the samples."""
    total = 0.0
    for i, (own, other) in enumerate(zip(tokens, teacher, strict=True)):
        kept = [j for j in range(len(own)) if mask is None or mask[i, j]]
        total += sum(-cosine(own[j], other[j]) for j in kept) / len(kept)
    return total / len(tokens)


def mlp3(x: Array, layers: list[tuple[Array, Array]]) -> Array:
    """Linear layers with SiLU, z / (1 + exp(-z)), between them."""
    for at, (weight, bias) in enumerate(layers):
        x = weight @ x + bias
        if at < len(layers) - 1:
            x = np.array([z / (1 + math.exp(-z)) for z in x])
    return x


def masked_pixels(
    predicted: Array, images: Array, mask: Array, patch: int, normalize: bool
) -> float:
    """Mean over images of the squared error at the pixels of hidden patches."""
    total = 0.0
    for i, image in enumerate(images):
        channels, _, width = image.shape
        across = math.ceil(width / patch)
        error, count = 0.0, 0
        for t in range(len(mask[i])):
            if not mask[i][t]:
                continue
            top, left = t // across * patch, t % across * patch
            block = np.zeros((channels, patch, patch))
            part = image[:, top : top + patch, left : left + patch]
            block[:, : part.shape[1], : part.shape[2]] = part
            if normalize:
                block = (block - block.mean()) / math.sqrt(block.var() + 1e-6)
            guess = predicted[i][t].reshape(channels, patch, patch)
            for c in range(channels):
                for y in range(part.shape[1]):
                    for x in range(part.shape[2]):
                        error += (guess[c, y, x] - block[c, y, x]) ** 2
                        count += 1
        total += error / count
    return total / len(images)


def masked_words(logits: Array, words: Array, counts: Array) -> float:
    """Mean over texts of the mean of -log softmax at the hidden words."""
    total = 0.0
    for rows, right, counted in zip(logits, words, counts, strict=True):
        each = []
        for row, word, counts_ in zip(rows, right, counted, strict=True):
            if counts_:
                top = row.max()
                each.append(top + math.log(np.exp(row - top).sum()) - row[word])
        total += sum(each) / len(each)
    return total / len(logits)


def hidden_states(student: Array, teacher: Array, mask: Array | None, reduction: str) -> float:
    total = 0.0
    for i in range(len(student)):
        kept = [j for j in range(student.shape[1]) if mask is None or mask[i, j]]
        for j in kept:
            square = float(((student[i, j] - teacher[i, j]) ** 2).sum())
            total += (square / student.shape[2] if reduction == "mean" else square) / len(kept)
    return total / len(student)


def unit(row: Array) -> Array:
    return row / math.sqrt(float(row @ row))


def centroid(online: Array, target: Array) -> float:
    total, count = 0.0, 0
    for own, other in zip(online, target, strict=True):
        middle = unit(np.mean([unit(t) for t in other], axis=0))
        for z in own:
            total += 2 - 2 * float(unit(z) @ middle)
            count += 1
    return total / count


def dispersion(rows: Array) -> float:
    width = rows.shape[1]
    moment = np.zeros((width, width))
    for row in rows:
        moment += np.outer(unit(row), unit(row)) / len(rows)
    return width * float((moment**2).sum()) - 1


def brownian(rows: Array, directions: Array) -> float:
    """Rows ``[N, V, D]``; one direction ``[D]`` for each image."""
    total = 0.0
    for views, g in zip(rows, directions, strict=True):
        total += sum(float(unit(z) @ unit(g)) for z in views) / len(views)
    return total / len(rows)
