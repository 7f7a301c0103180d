"""The head and the depth groups of the models people use."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.engine.toys import Shrink, mlp, samples
from tether import L2SP, TetherError, attach
from tether.engine.layers import weight_refs
from tether.engine.reference import canonical, unwrap
from tether.engine.taps import find_head, pool_features


def groups(model, head):
    return dict.fromkeys(ref.group for ref in weight_refs(model, head))


def timm_model(name, **options):
    timm = pytest.importorskip("timm", exc_type=(ImportError, RuntimeError))
    return timm.create_model(name, pretrained=False, num_classes=7, **options)


@pytest.mark.parametrize(
    ("name", "head", "expected"),
    [
        ("resnet18", "fc", ["stem", "layer1", "layer2", "layer3", "layer4", "head"]),
        ("mobilenetv2_035", "classifier", None),
        ("test_vit", "head", None),
        ("test_efficientnet", "classifier", None),
        ("convnext_atto", "head.fc", None),
        ("vgg11", "head.fc", None),
    ],
)
def test_timm(name, head, expected):
    model = timm_model(name)
    found, module = find_head(model, None, 7)
    assert found == head
    assert getattr(module, "out_features", 7) == 7
    order = list(groups(model, found))
    assert order[0] == "stem"
    assert order[-1] == "head"
    assert len(order) >= 3
    if expected:
        assert order == expected
    depths = {ref.group: ref.depth for ref in weight_refs(model, found)}
    assert depths["stem"] == 0
    assert depths["head"] == max(depths.values())


@pytest.mark.parametrize("kind", ["bert", "roberta", "vit", "gpt2"])
def test_transformers(kind):
    transformers = pytest.importorskip("transformers", exc_type=(ImportError, RuntimeError))
    small = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    if kind == "bert":
        config = transformers.BertConfig(vocab_size=30, num_labels=4, **small)
        model, head = transformers.BertForSequenceClassification(config), "classifier"
    elif kind == "roberta":
        config = transformers.RobertaConfig(vocab_size=30, num_labels=4, **small)
        model, head = transformers.RobertaForSequenceClassification(config), "classifier.out_proj"
    elif kind == "vit":
        config = transformers.ViTConfig(num_labels=4, image_size=16, patch_size=8, **small)
        model, head = transformers.ViTForImageClassification(config), "classifier"
    else:
        config = transformers.GPT2Config(
            vocab_size=30, n_embd=16, n_layer=2, n_head=2, num_labels=4
        )
        model, head = transformers.GPT2ForSequenceClassification(config), "score"
    found, _ = find_head(model, None, 4)
    assert found == head
    order = list(groups(model, found))
    assert order[0] == "stem"
    assert order[-1] == "head"
    assert len(order) == 4  # stem, two blocks, head
    if kind == "roberta":  # the whole new head, its hidden layer too
        assert {r.name.split(".")[0] for r in weight_refs(model, found) if r.is_head} == {
            "classifier"
        }


@pytest.mark.parametrize(
    ("name", "head"), [("resnet18", "fc"), ("vgg11", "classifier.6"), ("vit_b_16", "heads.head")]
)
def test_torchvision(name, head):
    torchvision = pytest.importorskip("torchvision", exc_type=(ImportError, RuntimeError))
    options = {"image_size": 32} if name.startswith("vit") else {}
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None, num_classes=7, **options)
    found, _ = find_head(model, None, None)
    assert found == head
    order = list(groups(model, found))
    assert order[-1] == "head"
    if name == "resnet18":
        assert order == ["stem", "layer1", "layer2", "layer3", "layer4", "head"]


def test_plain_modules():
    model = mlp()
    assert find_head(model, None, None)[0] == "5"
    assert list(groups(model, "5")) == ["0", "3", "head"]
    assert find_head(model, None, 8)[0] == "3"  # the last one with that many outputs
    assert find_head(model, "0", None)[1] is model[0]

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2, self.out = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 2)

    assert list(groups(Named(), "out")) == ["fc1", "fc2", "head"]

    class HeadFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.body = nn.Linear(5, 2), nn.Linear(4, 5)

    assert find_head(HeadFirst(), None, None)[0] == "head"
    nested = nn.Sequential(mlp()[:4], nn.Linear(8, 2))
    assert list(groups(nested, "1")) == ["0.0", "0.3", "head"]


def test_roles():
    model = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 3), nn.Linear(3, 2))
    roles = {r.name: r.role for r in weight_refs(model, "3")}
    assert roles == {
        "0.weight": "embedding",
        "1.weight": "norm",
        "1.bias": "norm",
        "2.weight": "weight",
        "2.bias": "bias",
        "3.weight": "weight",
        "3.bias": "bias",
    }


def test_a_head_that_is_not_found_lists_the_candidates():
    conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    optimizer = torch.optim.SGD(conv.parameters(), lr=0.1)
    with pytest.raises(TetherError, match=r"'shrink' needs the model's head.*candidates: 0"):
        attach(conv, Shrink(), optimizer)
    with pytest.raises(TetherError, match=r"'nothing' is not a module.*candidates: 0, 3, 5"):
        attach(mlp(), Shrink(), None, head="nothing")
    attach(conv, [], optimizer)  # a recipe that needs no head does not ask for one


def test_a_wrong_head_is_noticed_at_the_first_loss():
    model = mlp()
    x, y = samples(8).tensors
    reg = attach(model, Shrink(), torch.optim.SGD(model.parameters(), lr=0.1), head="3")
    with pytest.raises(TetherError, match=r"'3' has 8 outputs, the logits have 3"):
        reg.loss(model(x), y)


def test_a_convolutional_head_is_pooled_over_positions():
    class Conv(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.classifier = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 4, 1)

        def forward(self, x):
            return self.classifier(self.body(x).relu()).mean((2, 3))

    model = Conv()
    reg = attach(model, Shrink(), torch.optim.SGD(model.parameters(), lr=0.1), head="classifier")
    x = torch.randn(2, 3, 6, 6)
    reg.loss(model(x), torch.tensor([0, 3])).backward()
    expected = model.body(x).relu().mean((2, 3)).sum(0)
    torch.testing.assert_close(reg.methods["shrink"].seen, expected)


def test_distilled_models_have_two_heads():
    model = timm_model("deit_tiny_distilled_patch16_224", img_size=32)
    name, _ = find_head(model, None, 7)
    assert name == "head"
    heads = {r.name.split(".")[0] for r in weight_refs(model, name) if r.is_head}
    assert heads == {"head", "head_dist"}


def test_a_wrong_head_is_noticed_for_weights_too():
    model = mlp()
    x, y = samples(8).tensors
    reg = attach(model, L2SP(), torch.optim.SGD(model.parameters(), lr=0.1), head="3")
    with pytest.raises(TetherError, match="'3' has 8 outputs, the logits have 3"):
        reg.loss(model(x), y)


def test_features_of_maps_and_tokens():
    maps = torch.randn(2, 3, 4, 5)
    assert torch.equal(pool_features(maps, None, None, last=False), maps.mean((2, 3)))
    assert torch.equal(pool_features(maps, None, None), maps.mean((1, 2)))
    tokens = torch.randn(2, 3, 4)
    with pytest.raises(TetherError, match="one row a token"):
        pool_features(tokens, None, "mean")
    valid = torch.tensor([[True, True, False], [True, False, False]])
    pooled = pool_features(tokens, valid, "mean")
    torch.testing.assert_close(pooled, torch.stack([tokens[0, :2].mean(0), tokens[1, 0]]))
    assert pool_features(tokens[:, :1], None, None).shape == (2, 4)


def test_names_and_wrappers():
    assert canonical("_orig_mod.layer._checkpoint_wrapped_module.weight") == "layer.weight"
    model = mlp()
    assert unwrap(torch.compile(model)) is model
    with pytest.raises(TetherError, match="use DDP"):
        unwrap(nn.DataParallel(model))
