"""Stages without labels: further pretraining, self-distillation, then fine-tuning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file

from tests.tuning.toys import settings
from tether.errors import ConfigError
from tether.tuning.job import tune

EXAMPLE = Path(__file__).parents[2] / "examples" / "further_pretraining.yaml"


def stages(epochs: int = 1, **options: object) -> list[dict[str, object]]:
    """Those of the example, shortened."""
    found = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))["stages"]
    for stage in found:
        stage.update(epochs=epochs, lr=2e-3, **options)
    return found


@pytest.fixture
def unlabelled(tmp_path: Path) -> Path:
    from PIL import Image

    folder = tmp_path / "more"
    folder.mkdir()
    for i in range(8):
        pixels = np.random.default_rng(i).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def test_images(images: Path, unlabelled: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    given = settings(images, run, stages=stages(), unlabelled=str(unlabelled), export="last")
    given["model_args"] = {"pretrained": False}
    result = tune(given)
    first, second = (load_file(run / f"checkpoints/stage-{n}/end.safetensors") for n in (1, 2))
    held = load_file(next(run.glob("checkpoints/stage-2/**/methods.safetensors")))
    of_teacher = {
        name.split("self_distillation.teacher", 1)[1]: tensor
        for name, tensor in held.items()
        if "self_distillation.teacher" in name
    }
    key = next(name for name in of_teacher if name.endswith("blocks.0.mlp.fc1.weight"))
    assert np.array_equal(of_teacher[key], first["blocks.0.mlp.fc1.weight"])
    assert not np.array_equal(second["blocks.0.mlp.fc1.weight"], first["blocks.0.mlp.fc1.weight"])
    assert [row["stage"] for row in result.history] == [1, 2, 3]
    # no label moved the head: it decayed alike in both stages without
    assert np.allclose(first["head.weight"], second["head.weight"], atol=1e-7)


def test_texts(of_texts, tmp_path: Path) -> None:
    more = tmp_path / "more.txt"
    more.write_text("\n".join(f"the film was {word} and it is" for word in ("good", "bad", "a")))
    result = tune(of_texts(stages=stages(), unlabelled=str(more), export="none"))
    assert [row["stage"] for row in result.history] == [1, 2, 3]


@pytest.mark.parametrize(
    ("slip", "message"),
    [
        ({"stages": stages()[:1]}, "needs unlabelled: give --unlabelled PATH"),
        ({"methods": ["self_distillation:teacher=previous"]}, "has one before it"),
        ({"methods": ["msbreg:source=unlabelled"]}, "needs unlabelled: give --unlabelled PATH"),
    ],
)
def test_slips(images: Path, tmp_path: Path, slip: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tune(settings(images, tmp_path / "run", **slip))


def test_views_of_unlabelled_images(images: Path, unlabelled: Path, tmp_path: Path) -> None:
    given = settings(
        images, tmp_path / "run", epochs=1, unlabelled=str(unlabelled), export="none",
        methods=["msbreg:source=unlabelled,alone=true,num_views=3"],
    )  # fmt: skip
    result = tune(given)
    assert result.history[0]["msbreg.rank"] > 1
