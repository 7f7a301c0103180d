"""Exported folders load in a fresh process without tether, and in tether exactly as they were."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.models.tiny import bert_folder, config, source, without_tether
from tether.errors import ConfigError
from tether.models import LoadedModel, load_exported, load_model
from tether.models.predict import evaluation_encoder

RANDOM = {"pretrained": False}
NAMES = ("a|b", "<script>", "naïve 名前")


def logits(loaded: LoadedModel, batch: Tensor) -> Tensor:
    loaded.model.eval()
    with torch.no_grad():
        out = loaded.model(batch)
    return getattr(out, "logits", out)


TIMM = {
    "timm:test_vit": {"image_size": 64},
    "timm:mobilenetv2_035": {"image_size": 48, "model_args": {"pad_type": "same", "mean": 0.4}},
    "timm:resnet10t": {"model_args": {"in_chans": 1, "global_pool": "max"}},
}


def test_timm_loads_alone(tmp_path: Path) -> None:
    made = {}
    for at, (name, options) in enumerate(TIMM.items()):
        options = {**options, "model_args": {**RANDOM, **options.get("model_args", {})}}
        made[at] = loaded = load_model(config(name, **options), source(names=NAMES))
        assert loaded.image is not None
        loaded.save(tmp_path / f"model{at}")
        batch = torch.rand(2, loaded.image.channels, *loaded.image.size)
        np.save(tmp_path / f"batch{at}.npy", batch.numpy())
    out = without_tether(
        """
import json, numpy, timm, torch
for at in range(3):
    model = timm.create_model(f"local-dir:{sys.argv[1]}/model{at}", pretrained=True).eval()
    settings = timm.data.resolve_model_data_config(model)
    with torch.no_grad():
        out = model(torch.from_numpy(numpy.load(f"{sys.argv[1]}/batch{at}.npy")))
    print(json.dumps([out.tolist(), settings, list(model.pretrained_cfg["label_names"])]))
""",
        str(tmp_path),
    )
    for at, line in enumerate(out.splitlines()):
        told, image = json.loads(line), made[at].image
        batch = torch.from_numpy(np.load(tmp_path / f"batch{at}.npy"))
        assert torch.equal(torch.tensor(told[0]), logits(made[at], batch))
        assert told[1]["input_size"] == [image.channels, *image.size]
        assert tuple(told[1]["mean"]) == image.mean and tuple(told[1]["std"]) == image.std
        assert told[1]["crop_pct"] == image.crop_pct
        assert told[1]["interpolation"] == image.interpolation
        assert told[2] == list(NAMES)
        again = load_exported(tmp_path / f"model{at}")
        assert again.image == image and again.class_names == list(NAMES)
        assert torch.equal(logits(again, batch), logits(made[at], batch))


def photo() -> Image.Image:
    across, down = np.meshgrid(np.linspace(0, 9, 210), np.linspace(0, 7, 150))
    waves = [np.sin(across * k) * np.cos(down) for k in (1, 2, 3)]
    return Image.fromarray((127 + 120 * np.stack(waves, axis=-1)).astype(np.uint8))


@pytest.mark.parametrize("share", [0.875, 0.95, 1.0])
def test_timm_sees_the_pixels_that_evaluation_saw(share: float, tmp_path: Path) -> None:
    import timm

    args = {**RANDOM, "crop_pct": share, "std": 0.3}
    loaded = load_model(config("timm:resnet10t", model_args=args, image_size=64), source())
    loaded.save(tmp_path / "model")
    model = timm.create_model(f"local-dir:{tmp_path}/model", pretrained=True)
    settings = timm.data.resolve_model_data_config(model)
    there = timm.data.create_transform(**settings, is_training=False)(photo())
    torch.testing.assert_close(there, evaluation_encoder(loaded)(photo())["x"])


def test_transformers_sees_the_pixels_that_evaluation_saw(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, ResNetConfig, ResNetForImageClassification

    told = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic")
    ResNetForImageClassification(told).save_pretrained(tmp_path / "resnet")
    args = {"crop_pct": 0.875, "std": 0.3}
    loaded = load_model(config(str(tmp_path / "resnet"), model_args=args, image_size=64), source())
    loaded.save(tmp_path / "model")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "model")
    there = processor(photo(), return_tensors="pt")["pixel_values"][0]
    ours = evaluation_encoder(loaded)(photo())["pixel_values"]
    grey = 1 / 255 / 0.3  # that library resizes tensors, which may round to the next level
    torch.testing.assert_close(there, ours, rtol=0, atol=1.01 * grey)


def test_texts_load_alone(tmp_path: Path) -> None:
    folder = bert_folder(tmp_path / "bert")
    loaded = load_model(config(str(folder), max_length=6), source("text", names=NAMES))
    loaded.save(tmp_path / "model")
    texts = ["good film", "the plot was very very awful and not good"]
    assert loaded.encode_text is not None and loaded.pad is not None
    loaded.model.eval()
    batch = loaded.pad([loaded.encode_text(text) for text in texts])
    told = json.loads(
        without_tether(
            """
import json, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1]).eval()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
batch = tokenizer(json.loads(sys.argv[2]), truncation=True, padding=True, return_tensors="pt")
with torch.no_grad():
    print(json.dumps([model(**batch).logits.tolist(), model.config.id2label]))
""",
            str(tmp_path / "model"),
            json.dumps(texts),
        )
    )
    expected = loaded.model(**batch).logits.detach()
    assert torch.equal(torch.tensor(told[0]), expected)
    assert list(told[1].values()) == list(NAMES)
    again = load_exported(tmp_path / "model")
    assert again.encode_text is not None
    assert again.encode_text(texts[1]) == loaded.encode_text(texts[1])
    assert torch.equal(again.model(**batch).logits, expected)


def test_images_of_transformers_load_alone(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    told = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        image_size=32, patch_size=8,
    )  # fmt: skip
    ViTForImageClassification(told).save_pretrained(tmp_path / "vit")
    args = {"crop_pct": 0.8, "mean": 0.3, "interpolation": "bilinear"}
    loaded = load_model(config(str(tmp_path / "vit"), model_args=args), source(names=NAMES))
    loaded.save(tmp_path / "model")
    image = loaded.image
    assert image is not None and image.crop_pct == 0.8 and image.mean == (0.3, 0.3, 0.3)
    told_there = json.loads(
        without_tether(
            """
import json, torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification
model = AutoModelForImageClassification.from_pretrained(sys.argv[1]).eval()
processor = AutoImageProcessor.from_pretrained(sys.argv[1])
made = processor(Image.new("RGB", (80, 60), (255, 0, 0)), return_tensors="pt")["pixel_values"]
with torch.no_grad():
    logits = model(torch.ones(1, 3, 32, 32)).logits
print(json.dumps([list(made.shape), made[0, :, 5, 5].tolist(), processor.size["shortest_edge"],
                  logits.tolist()]))
""",
            str(tmp_path / "model"),
        )
    )
    assert told_there[0] == [1, 3, 32, 32] and told_there[2] == 40
    assert told_there[1] == pytest.approx([(1 - 0.3) / 0.5, -0.3 / 0.5, -0.3 / 0.5], abs=1e-5)
    assert torch.equal(torch.tensor(told_there[3]), logits(loaded, torch.ones(1, 3, 32, 32)))
    assert load_exported(tmp_path / "model").image == image


def test_torchvision_loads_as_its_lines_say(tmp_path: Path) -> None:
    loaded = load_model(config("torchvision:resnet18", model_args=RANDOM), source(names=NAMES))
    loaded.save(tmp_path / "model")
    batch = torch.ones(1, 3, 64, 64)
    lines = loaded.how_to_load.replace("FOLDER", str(tmp_path / "model"))
    show = (
        "\nimport torch\nwith torch.no_grad():\n"
        "    print(json.dumps([model(torch.ones(1, 3, 64, 64)).tolist(), class_names]))"
    )
    told = json.loads(without_tether(lines + show))
    assert torch.equal(torch.tensor(told[0]), logits(loaded, batch)) and told[1] == list(NAMES)
    assert torch.equal(logits(load_exported(tmp_path / "model"), batch), logits(loaded, batch))


def new_head(loaded: LoadedModel) -> bool:
    assert loaded.keys is not None
    return bool(loaded.keys.head)


@pytest.mark.parametrize(
    "name", ["timm:resnet10t", "torchvision:resnet18", "tether:cifar_resnet20"]
)
def test_a_folder_is_where_the_next_run_starts(name: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = load_model(config(name, model_args=RANDOM, image_size=32, seed=1), source())
    first.save(run / "model")
    same = load_model(config(str(run), seed=2), source())
    other = load_model(config(str(run), seed=2), source(names=("x", "y")))
    batch = torch.rand(2, 3, 32, 32)
    assert not new_head(same) and torch.equal(logits(same, batch), logits(first, batch))
    assert same.image == other.image == first.image
    assert new_head(other) and other.source_head is not None
    old = first.model.get_submodule(first.head)
    assert torch.equal(other.source_head.weight, old.weight)
    assert other.keys is not None and not other.keys.missing
    assert other.model.get_submodule(other.head).out_features == 2
    assert new_head(load_model(config(str(run)), source(task="multi_label")))


def test_a_text_folder_is_where_the_next_run_starts(tmp_path: Path) -> None:
    first = load_model(config(str(bert_folder(tmp_path / "bert"))), source("text"))
    first.save(tmp_path / "model")
    same = load_model(config(str(tmp_path / "model"), seed=2), source("text"))
    state = same.model.state_dict()
    assert not new_head(same)
    assert all(torch.equal(v, state[k]) for k, v in first.model.state_dict().items())
    other = load_model(config(str(tmp_path / "model")), source("text", names=("b", "a", "c")))
    assert new_head(other) and other.source_head is not None


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    loaded = load_model(config("tether:cifar_resnet20", model_args=RANDOM), source())
    loaded.save(tmp_path / "model")
    (tmp_path / "model" / "old.txt").write_text("x")
    loaded.save(tmp_path / "model")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]
    assert not (tmp_path / "model" / "old.txt").exists()


def test_nothing_is_left_of_a_failed_save(tmp_path: Path) -> None:
    loaded = load_model(config("tether:cifar_resnet20", model_args=RANDOM), source())
    loaded.save(tmp_path / "model")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    loaded.model.register_buffer("odd", torch.ones(2).to_sparse())
    with pytest.raises(Exception, match=r".+"):
        loaded.save(tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        load_exported(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"no tether.json"):
        load_exported(tmp_path)


def test_sharded_weights_are_saved_whole(tmp_path: Path) -> None:
    from torch.distributed.fsdp import fully_shard

    loaded = load_model(config("tether:cifar_resnet20", model_args=RANDOM), source())
    expected = {k: v.clone() for k, v in loaded.model.state_dict().items()}
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/s", rank=0, world_size=1
    )
    try:
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        fully_shard(loaded.model, mesh=mesh)
        assert hasattr(next(loaded.model.parameters()), "full_tensor")
        loaded.save(tmp_path / "model")
    finally:
        torch.distributed.destroy_process_group()
    state = load_exported(tmp_path / "model").model.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in expected.items())
