import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from tether.data.images import StoredImage, to_mode
from tether.data.transforms import AUGMENTS, crop_box, image_encoder
from tether.errors import ConfigError
from tether.models.spec import ImagePreprocess

from .makers import image

PLAIN = ImagePreprocess((16, 16), mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), crop_pct=0.8)


def encode(source, preprocess=PLAIN, augment="none", train=False):
    return image_encoder(preprocess, train=train, augment=augment, input_name="x")(source)["x"]


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (9, 50), (16, 16)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest"])
def test_evaluation_is_what_timm_does(tmp_path, size, interpolation):
    create = pytest.importorskip("timm.data").create_transform
    path = image(tmp_path / "x.png", 3, size)
    told = {"interpolation": interpolation, "mean": PLAIN.mean, "std": PLAIN.std}
    theirs = create((3, 16, 16), is_training=False, crop_pct=0.8, **told)(Image.open(path))
    ours = encode(path, ImagePreprocess((16, 16), crop_pct=0.8, **told))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert ours.is_contiguous() and ours.dtype == torch.float32


def test_sizes_that_are_not_square(tmp_path):
    path = image(tmp_path / "x.png", 3, (50, 40))
    for height, width in ((24, 12), (12, 24)):
        for augment in ("none", "default"):
            preprocess = ImagePreprocess((height, width), crop_pct=0.9)
            assert encode(path, preprocess, augment, train=True).shape == (3, height, width)


@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_augmentation(tmp_path, augment, channels):
    path = image(tmp_path / "x.png", 3, (40, 30))
    preprocess = ImagePreprocess((16, 16), channels=channels, mean=(0.5,), std=(0.5,))
    encoder = image_encoder(preprocess, train=True, augment=augment, input_name="pixel_values")
    encoder = pickle.loads(pickle.dumps(encoder))
    drawn = []
    for seed in (0, 0, 1, 2, 3):
        torch.manual_seed(seed)
        drawn.append(encoder(path)["pixel_values"])
        assert drawn[-1].shape == (channels, 16, 16)
        assert drawn[-1].min() >= -1.001 and drawn[-1].max() <= 1.001
    assert torch.equal(drawn[0], drawn[1])
    different = any(not torch.equal(drawn[0], other) for other in drawn[2:])
    assert different == (augment != "none")
    still = image_encoder(preprocess, train=False, augment=augment, input_name="x")
    assert torch.equal(still(path)["x"], still(path)["x"])


def test_crops_have_the_law_of_torchvision():
    torch.manual_seed(0)
    width, height, smallest = 128, 96, 0.35
    ours = np.array([crop_box(width, height, smallest) for _ in range(4000)])
    blank = torch.zeros(3, height, width)
    stock = v2.RandomResizedCrop(8, (smallest, 1.0))
    params = [stock.make_params([blank]) for _ in range(4000)]
    theirs = np.array([[p["left"], p["top"], p["width"], p["height"]] for p in params])
    assert (ours[:, 0] + ours[:, 2] <= width).all() and (ours[:, 1] + ours[:, 3] <= height).all()
    assert ours.min() >= 0
    for column in range(4):  # the largest distance between the two distribution functions
        a, b = np.sort(ours[:, column]), np.sort(theirs[:, column])
        at = np.unique(np.concatenate([a, b]))
        gap = np.abs(np.searchsorted(a, at, "right") - np.searchsorted(b, at, "right")).max()
        assert gap / 4000 < 0.05
    assert crop_box(1000, 3, 0.9)[2:] == (4, 3) and crop_box(1, 1, 0.35) == (0, 0, 1, 1)


def test_orientation_of_cameras_is_honoured(tmp_path):
    upright = Image.new("RGB", (20, 10), "white")
    upright.paste("red", (0, 0, 10, 10))
    path = tmp_path / "x.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn to the right
    upright.save(path, exif=exif, quality=95)
    turned = to_mode(Image.open(path), 3)
    assert turned.size == (10, 20)
    assert turned.getpixel((5, 2))[1] < 60 and turned.getpixel((5, 17))[1] > 200


def _palette(mode):
    picture = Image.new("P", (6, 6), 1)
    picture.putpalette([0, 0, 0, 255, 0, 0])
    if mode == "see-through":
        picture.info["transparency"] = 1
    return picture


@pytest.mark.parametrize(
    ("picture", "rgb"),
    [
        (Image.new("L", (6, 6), 100), (100, 100, 100)),
        (Image.new("1", (6, 6), 1), (255, 255, 255)),
        (Image.new("RGBA", (6, 6), (255, 0, 0, 255)), (255, 0, 0)),
        (Image.new("RGBA", (6, 6), (0, 0, 0, 0)), (255, 255, 255)),
        (Image.new("LA", (6, 6), (0, 0)), (255, 255, 255)),
        (Image.new("CMYK", (6, 6), (0, 255, 255, 0)), (255, 0, 0)),
        (Image.fromarray(np.full((6, 6), 257 * 80, dtype=np.uint16)), (80, 80, 80)),
        (Image.fromarray(np.full((6, 6), 0.5, dtype=np.float32)), (128, 128, 128)),
        (_palette("solid"), (255, 0, 0)),
        (_palette("see-through"), (255, 255, 255)),
    ],
)
def test_every_kind_of_pixels_becomes_rgb_or_grey(picture, rgb):
    assert to_mode(picture, 3).getpixel((3, 3)) == rgb
    assert to_mode(picture, 1).mode == "L"
    assert encode(picture, ImagePreprocess((4, 4))).shape == (3, 4, 4)


def test_paths_stored_images_and_open_ones_are_the_same(tmp_path):
    path = image(tmp_path / "x.png", 3, (40, 30))
    file = path.read_bytes()
    stored = [StoredImage([b"", file], 1), StoredImage([{"bytes": file, "path": None}], 0),
              StoredImage([{"bytes": None, "path": str(path)}], 0, [tmp_path]),
              StoredImage(["x.png"], 0, [tmp_path])]  # fmt: skip
    for source in (*stored, Image.open(io.BytesIO(file)), str(path)):
        assert torch.equal(encode(source), encode(path))
    with pytest.raises(OSError, match="missing"):
        encode(StoredImage([None], 0))
    for named in (str(path), "../x.png", f"{tmp_path}/d/../x.png"):
        with pytest.raises(OSError, match=r"names a file outside the data set, .*x\.png"):
            encode(StoredImage([{"bytes": None, "path": named}], 0, [tmp_path / "d"]))


def test_large_photographs_are_decoded_smaller_in_training_only(tmp_path):
    path = tmp_path / "x.jpg"
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8))
    small.resize((1600, 1200)).save(path, quality=95)
    torch.manual_seed(0)
    whole = encode(path, PLAIN, "light", train=True)
    image_in_memory = Image.open(path)
    image_in_memory.load()
    torch.manual_seed(0)
    full = encode(image_in_memory, PLAIN, "light", train=True)
    assert not torch.equal(whole, full)
    torch.testing.assert_close(whole, full, atol=0.3, rtol=0)


def test_what_is_refused():
    with pytest.raises(ConfigError, match="option augment"):
        encode(None, augment="strong", train=True)
    with pytest.raises(ConfigError, match="1 or 3 channels"):
        encode(None, ImagePreprocess((8, 8), channels=4))
