"""Loading: the new head, weights files, names that do not exist, data that do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.models.tiny import bert_folder, config, shared_weights, source
from tether.errors import ConfigError
from tether.models import LoadedModel, load_model
from tether.models.cifar_resnet import CifarResNet

RANDOM = {"pretrained": False}
MODELS = ["timm:test_vit", "timm:resnet10t", "torchvision:resnet18", "tether:cifar_resnet20"]


def head_of(loaded: LoadedModel) -> dict[str, Tensor]:
    return loaded.model.get_submodule(loaded.head).state_dict()


@pytest.mark.parametrize("name", MODELS)
def test_a_head_follows_from_the_seed_alone(name: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = load_model(config(name, model_args=RANDOM), source())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = load_model(config(name, model_args=RANDOM), source())
    other = load_model(config(name, model_args=RANDOM, seed=43), source())
    for key, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[key]), key
    weight = head_of(first)["weight"]
    assert weight.shape[0] == 3 and not torch.equal(weight, head_of(other)["weight"])
    assert 0.015 < float(weight.std()) < 0.025 and not head_of(first)["bias"].any()
    assert first.class_names == ["cat", "dog", "owl"]


def test_a_head_is_the_same_whether_weights_come_from_a_file(tmp_path: Path) -> None:
    plain = load_model(config("timm:resnet10t", model_args=RANDOM), source())
    save_file(plain.model.state_dict(), tmp_path / "w.safetensors")
    filled = load_model(config("timm:resnet10t", weights=str(tmp_path / "w.safetensors")), source())
    assert torch.equal(head_of(plain)["weight"], head_of(filled)["weight"])


@pytest.mark.parametrize("prefix", ["", "module.", "module.backbone.", "encoder_q."])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_are_taken_whatever_stands_before_the_names(
    tmp_path: Path, prefix: str, suffix: str
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        given = CifarResNet(20, num_classes=5).state_dict()
    given["layer3.2.conv2.weight"] = given["layer3.2.conv2.weight"][:, :8].contiguous()
    given["extra"] = torch.zeros(3)
    file = tmp_path / f"w.{suffix}"
    named = {prefix + k: v for k, v in given.items()}
    if suffix == "pth":
        torch.save({"epoch": 3, "state_dict": named}, file)
    else:
        save_file(named, file)
    loaded = load_model(config("tether:cifar_resnet20", weights=str(file)), source())
    keys = loaded.keys
    assert keys is not None
    assert keys.missing == ["layer3.2.conv2.weight"]
    assert keys.unexpected == ["extra", "layer3.2.conv2.weight"]
    assert sorted(keys.head) == sorted(keys.discarded) == ["linear.bias", "linear.weight"]
    state = loaded.model.state_dict()
    assert all(torch.equal(state[k], given[k]) for k in keys.taken) and len(keys.taken) > 100
    assert loaded.source_head is not None
    assert torch.equal(loaded.source_head.weight, given["linear.weight"])


def test_weights_of_another_model_are_refused_with_names_of_both(tmp_path: Path) -> None:
    save_file({"embed.weight": torch.zeros(4, 4)}, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match=r"only 0 of .* conv1.weight \[16, 3, 3, 3\].*embed.wei"):
        load_model(
            config("tether:cifar_resnet20", weights=str(tmp_path / "w.safetensors")), source()
        )


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (open, (str(tmp_path / "made"),))

    torch.save({"state_dict": Evil()}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match="only files of plain tensors"):
        load_model(config("tether:cifar_resnet20", weights=str(tmp_path / "w.pth")), source())
    assert not (tmp_path / "made").exists()


def test_the_real_weights_of_a_mobilenet_load_completely() -> None:
    file = shared_weights("mobilenetv2_035.safetensors")
    args = {"pad_type": "same", "bn_eps": 1e-3, "mean": 0.5, "std": 0.5}
    loaded = load_model(
        config("timm:mobilenetv2_035", weights=file, model_args=args, image_size=96), source()
    )
    assert loaded.keys is not None and loaded.image is not None
    assert not loaded.keys.missing and not loaded.keys.unexpected
    assert loaded.keys.head == ["classifier.bias", "classifier.weight"]
    assert loaded.image.size == (96, 96) and loaded.image.mean == (0.5, 0.5, 0.5)
    state = loaded.model.state_dict()
    assert all(torch.equal(state[k], v) for k, v in load_file(file).items())


def test_the_real_weights_of_a_residual_network_load_completely() -> None:
    file = shared_weights("cifar10_resnet56.safetensors")
    loaded = load_model(config("tether:cifar_resnet56", weights=file), source())
    assert loaded.keys is not None and loaded.source_head is not None
    assert not loaded.keys.missing and not loaded.keys.unexpected
    CifarResNet(56).load_state_dict(load_file(file))  # strictly, with its own head


def test_a_vision_transformer_is_made_for_the_size_asked_for() -> None:
    loaded = load_model(config("timm:test_vit", model_args=RANDOM, image_size=64), source())
    assert loaded.image is not None and loaded.image.size == (64, 64)
    assert loaded.model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


def test_grey_images() -> None:
    args = {"pretrained": False, "in_chans": 1}
    loaded = load_model(config("timm:resnet10t", model_args=args), source())
    assert loaded.image is not None
    assert loaded.image.channels == 1 and len(loaded.image.mean) == len(loaded.image.std) == 1
    assert loaded.model.eval()(torch.zeros(1, 1, 32, 32)).shape == (1, 3)


# -- texts -----------------------------------------------------------------------------------------


def test_texts_get_a_head_of_the_data_and_late_padding(tmp_path: Path) -> None:
    folder = bert_folder(tmp_path / "bert", with_head=True)
    loaded = load_model(config(str(folder)), source("text", task="multi_label"))
    told = loaded.model.config
    assert told.id2label == {0: "cat", 1: "dog", 2: "owl"} and told.label2id["owl"] == 2
    assert told.problem_type == "multi_label_classification"
    assert loaded.keys is not None and not loaded.keys.missing
    assert loaded.source_head is not None and loaded.source_head.out_features == 4
    assert loaded.encode_text is not None and loaded.pad is not None
    short, pair = loaded.encode_text("good film"), loaded.encode_text(("the plot", "was awful"))
    assert [len(short["input_ids"]), len(pair["input_ids"])] == [4, 7]
    assert pair["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1]
    batch = loaded.pad([short, pair])
    assert batch["input_ids"].shape == (2, 7) and batch["attention_mask"][0].sum() == 4
    assert loaded.model(**batch).logits.shape == (2, 3)
    # The model has 24 positions: max_length, 128, is cut to that.
    assert len(loaded.encode_text("good " * 100)["input_ids"]) == 24


def test_text_heads_do_not_depend_on_the_random_state(tmp_path: Path) -> None:
    folder = bert_folder(tmp_path / "bert")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = load_model(config(str(folder)), source("text"))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    second = load_model(config(f"hf:{folder}"), source("text"))
    state = second.model.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in first.model.state_dict().items())


def test_a_bare_backbone_file_fits_under_its_prefix(tmp_path: Path) -> None:
    folder = bert_folder(tmp_path / "bert")
    file = str(folder / "model.safetensors")
    assert not any(k.startswith("bert.") for k in load_file(file))
    loaded = load_model(config(str(folder), weights=file), source("text"))
    assert loaded.keys is not None
    assert not loaded.keys.missing and not loaded.keys.unexpected


def test_a_setting_that_the_model_lacks(tmp_path: Path) -> None:
    folder = bert_folder(tmp_path / "bert")
    with pytest.raises(ConfigError, match="no setting 'hiden_size'.*did you mean 'hidden_size'"):
        load_model(config(str(folder), model_args={"hiden_size": 8}), source("text"))


# -- what cannot be had ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("", {}, "no model was named"),
        ("timm:resnet10x", {}, "timm has no model 'resnet10x'; did you mean 'resnet10t'"),
        ("timm:", {}, "a name is missing"),
        ("torchvision:resnet19", {}, "no classifier 'resnet19'; did you mean 'resnet18'"),
        ("tether:cifar_resnet21", {}, "did you mean .*cifar_resnet20"),
        ("tinm:resnet18", {}, "unknown library 'tinm'; did you mean 'timm'"),
        ("./nowhere", {}, "the directory does not exist"),
        ("tether:cifar_resnet20", {}, "comes without weights: pass --weights"),
        ("timm:mobilenetv2_035", {}, "Pass --weights FILE.safetensors"),
        ("timm:resnet10t", {"weights": "none.pth"}, "weights none.pth: no such file"),
        ("timm:resnet10t", {"model_args": {"depht": 3} | RANDOM}, "cannot be made with model_args"),
        ("timm:resnet10t", {"model_args": {"num_classes": 3}}, "set by the data"),
        ("timm:resnet10t", {"model_args": {"std": 0} | RANDOM}, "a std is above 0"),
        ("timm:resnet10t", {"model_args": {"mean": "x"} | RANDOM}, "a number is expected"),
    ],
)
def test_one_clear_message(model: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_model(config(model, **options), source())


@pytest.mark.parametrize("model", ["hf:nobody/nothing", "nobody/nothing", "timm:resnet10t"])
def test_without_network_a_local_path_is_proposed(
    model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="local folder with config.json and model.safetensors"):
        load_model(config(model), source())


def test_data_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="reads images, but the data tiny are texts"):
        load_model(config("timm:resnet10t", model_args=RANDOM), source("text"))
    folder = bert_folder(tmp_path / "bert")
    with pytest.raises(ConfigError, match="cannot classify the data, which are images"):
        load_model(config(str(folder)), source("image"))


def test_folders_that_hold_no_model(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"no config.json.*notes.txt"):
        load_model(config(str(tmp_path / "a")), source())
    (tmp_path / "a" / "config.yaml").write_text("model: x")
    with pytest.raises(ConfigError, match="run folder without model/"):
        load_model(config(str(tmp_path / "a")), source())


def test_the_demo_network_is_the_demos() -> None:
    from tether.demo.task import noisy_task

    loaded = load_model(config("demo:digits"), source("vector", tuple("0123456789")))
    expected = noisy_task(42).pretrained
    state = loaded.model.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in expected.state_dict().items())
    assert loaded.model is not expected and loaded.kind == "vector"
