"""Random windows for training, centres for tests: what they cut, and that it depends on seed, epoch and step alone."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from generated_images import encode, noise, write_parquet
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from adderkit import train
from adderkit.data import DataConfig, ImageData, Share, augment, load
from adderkit.data.crops import WORDS, CentreCrop, ResizedCrop, random_window
from adderkit.data.image import decode
from adderkit.options import OptionsError

KINDS = [{"memory_limit_mb": 64}, {"memory_limit_mb": 0, "workers": 0}, {"memory_limit_mb": 0, "workers": 2}]
SIZES = [(20, 31, 3), (33, 18), (16, 16, 3), (25, 40, 3), (12, 50, 3)]  # grey ones among them
CROPS = {"augmentation": "resized_crop", "image_size": 16}


def pictures(count: int) -> list[np.ndarray]:
    return [noise(1, SIZES[i % len(SIZES)], seed=i)[0] for i in range(count)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """22 images of five sizes in train, 4 in test, two classes."""
    for part, count in (("train", 22), ("test", 4)):
        for i, pixels in enumerate(pictures(count)):
            file = tmp_path / "pets" / part / "ab"[i % 2] / f"{i:02}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encode(pixels))
    return tmp_path / "pets"


def loaded(root: Path, **options: object) -> ImageData:
    return load(DataConfig(name="imagefolder", root=root, **{**CROPS, **options}))  # type: ignore[arg-type]


def epoch_of(data: ImageData, batch: int = 4, **options: object) -> list[torch.Tensor]:
    return [images for images, _ in data.train.batches(batch, **{"seed": 11, "epoch": 2, **options})]  # type: ignore[arg-type]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_memory_stream_and_workers_give_the_same_bits(folder: Path):
    sets = [loaded(folder, **kind) for kind in KINDS]
    assert [type(data.test).__name__ for data in sets] == ["TensorSplit", "StreamSplit", "StreamSplit"]
    assert len({(data.mean, data.std, data.channels) for data in sets}) == 1
    epochs = [epoch_of(data) for data in sets]
    assert len(epochs[0]) == 5 and epochs[0][0].shape == (4, 3, 16, 16)
    assert epochs[0][0].is_contiguous(memory_format=torch.channels_last)
    tests = [[images for images, _ in data.test.batches(3, seed=None)] for data in sets]
    for kind in (1, 2):
        assert same(epochs[0], epochs[kind]) and same(tests[0], tests[kind])


@pytest.mark.parametrize("kind", KINDS[:2], ids=["memory", "stream"])
def test_windows_follow_seed_epoch_and_step_alone(folder: Path, kind: dict[str, int]):
    data = loaded(folder, **kind)
    whole = epoch_of(data)
    assert same(whole, epoch_of(data))
    assert same(whole[3:], epoch_of(data, start=3))
    for other in ({"seed": 12}, {"epoch": 3}):
        assert not same(whole, epoch_of(data, **other))
    # two processes, two parts of every batch: their pieces in order are the batches of one process
    shares = [iter(epoch_of(data, share=Share(process, 2, 2))) for process in (0, 1)]
    for batch in whole:
        pieces = [next(share) for _ in range(2) for share in shares]
        assert torch.equal(batch, torch.cat(pieces))


@pytest.mark.parametrize("kind", KINDS[:2], ids=["memory", "stream"])
def test_batches_are_the_windows_that_the_words_say(folder: Path, kind: dict[str, int]):
    data = loaded(folder, normalisation="imagenet", **kind)
    assert (data.mean, data.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    rows = augment.order(22, 11, 2)
    files = sorted((folder / "train").rglob("*.png"), key=lambda path: (path.parent.name, path.name))
    for step, images in enumerate(epoch_of(data)):
        words = augment.crop_words(4, seed=11, epoch=2, step=step)
        mirrored = augment.draws(4, 0, True, seed=11, epoch=2, step=step)[2]
        for i, row in enumerate(rows[4 * step : 4 * step + 4]):
            with Image.open(files[row]) as image:
                window = random_window(image.width, image.height, words[i])
                cut = image.convert("RGB").crop(window).resize((16, 16), Image.Resampling.BILINEAR)
            pixels = np.asarray(cut)[:, ::-1] if mirrored[i] else np.asarray(cut)
            expected = (pixels / 255.0 - np.array(data.mean)) / np.array(data.std)
            assert np.abs(images[i].permute(1, 2, 0).numpy() - expected).max() < 1e-5


def test_statistics_are_of_the_centres(folder: Path):
    data = loaded(folder)
    centres = []
    for path in (folder / "train").rglob("*.png"):
        with Image.open(path) as image:
            centres.append(np.asarray(CentreCrop(16, 18)(image.convert("RGB"))))
    pixels = np.stack(centres) / 255.0
    assert data.mean == pytest.approx(pixels.mean(axis=(0, 1, 2)), abs=1e-12)
    assert data.std == pytest.approx(pixels.std(axis=(0, 1, 2)), abs=1e-12)


def test_a_ramp_stays_the_ramp_between_the_windows_edges(tmp_path: Path):
    """Where the window lies is read off the pixels, without the code that cut it."""
    ramp = np.broadcast_to(np.linspace(0, 250, 200).round().astype(np.uint8), (150, 200))
    files = {
        name: write_parquet(tmp_path / f"{name}.parquet", [encode(ramp.copy())] * 40, [i % 2 for i in range(40)])
        for name in ("train", "test")
    }
    data = load(DataConfig(name="parquet", **files, **CROPS, flip=False))  # type: ignore[arg-type]
    images = next(iter(data.train.batches(40, seed=1)))[0][:, 0].double() * data.std[0] + data.mean[0]
    values = 255 * images
    assert ((values - values[:, :1]).abs() < 1e-3).all()  # every row alike
    position = values.mean(1) * 199 / 250  # in pixels of the original
    slopes = position.diff(dim=1)
    widths = 16 * slopes.mean(1)
    assert ((slopes - slopes.mean(1, keepdim=True)).abs() < 0.15 * slopes.mean(1, keepdim=True) + 0.9).all()
    # 8 % of the area at 3/4: 42 pixels wide; at most all 200
    assert 35 < widths.min() < 80 and 150 < widths.max() < 205
    assert position[:, 0].min() < 20 and position[:, -1].max() > 180


@settings(deadline=None, max_examples=200)
@given(width=st.integers(1, 400), height=st.integers(1, 400), seed=st.integers(0, 2**40))
def test_windows_lie_in_the_image(width: int, height: int, seed: int):
    (words,) = augment.crop_words(1, seed=seed, epoch=0, step=0)
    left, top, right, bottom = random_window(width, height, words)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    if min(width, height) > 60 and max(width, height) < 1.33 * min(width, height):  # hardly ever falls back
        w, h = right - left, bottom - top
        assert 0.06 < w * h / (width * height) <= 1 and 0.72 < w / h < 1.39


def test_windows_are_drawn_evenly():
    words = augment.crop_words(20_000, seed=0, epoch=0, step=0)
    windows = np.array([random_window(1000, 1000, row) for row in words])
    w, h = windows[:, 2] - windows[:, 0], windows[:, 3] - windows[:, 1]
    area, ratio = w * h / 1e6, np.log(w / h) / np.log(4 / 3)
    inner = area <= 0.75  # larger ones may not fit, and are drawn again
    counts = np.histogram(area[inner], bins=10, range=(0.08, 0.75))[0]
    assert np.abs(counts / counts.mean() - 1).max() < 0.1
    counts = np.histogram(ratio[inner], bins=10, range=(-1, 1))[0]
    assert np.abs(counts / counts.mean() - 1).max() < 0.1
    for start, room in ((windows[:, 0], 1000 - w), (windows[:, 1], 1000 - h)):
        counts = np.histogram((start + 0.5)[inner] / (room + 1)[inner], bins=10, range=(0, 1))[0]
        assert np.abs(counts / counts.mean() - 1).max() < 0.1


@pytest.mark.parametrize(
    ("size", "window"),
    [((1000, 10), (493, 0, 506, 10)), ((10, 1000), (0, 493, 10, 506)), ((1, 1), (0, 0, 1, 1))],
)
def test_images_too_narrow_for_any_window_give_their_centre(size: tuple[int, int], window: tuple[int, ...]):
    (words,) = augment.crop_words(1, seed=0, epoch=0, step=0)
    assert random_window(*size, words) == window


def test_words_never_change():
    # raw words of a bit generator are guaranteed to stay; recorded with NumPy 2.4
    words = augment.crop_words(2, seed=1, epoch=2, step=3)
    assert words.shape == (2, WORDS) and words.dtype == np.uint64
    assert words[1, :2].tolist() == [2432741698961335879, 17921074901731739792]


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (256, 256), (90, 120)])
def test_tests_see_the_centre_after_a_resize_to_256(height: int, width: int):
    image = Image.fromarray(noise(1, (height, width, 3))[0])
    scale = 256 / min(height, width)
    resized = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    left, top = (resized.width - 224) // 2, (resized.height - 224) // 2
    expected = np.asarray(resized)[top : top + 224, left : left + 224]
    assert np.array_equal(decode(image, CentreCrop(224, 256)), expected)


@pytest.mark.parametrize(("options", "resize"), [({}, 18), ({"resize": 16}, 16), ({"resize": 30}, 30)])
def test_the_resize_of_test_images_is_an_option(folder: Path, options: dict[str, int], resize: int):
    data = loaded(folder, **options)
    files = sorted((folder / "test").rglob("*.png"), key=lambda path: (path.parent.name, path.name))
    for one, path in zip(next(data.test.uint8_batches(4))[0], files, strict=True):
        with Image.open(path) as image:
            expected = np.asarray(CentreCrop(16, resize)(image.convert("RGB")))
        assert np.array_equal(one.permute(1, 2, 0).numpy(), expected)


def test_resize_without_resized_crops_is_for_all_images(folder: Path):
    data = loaded(folder, augmentation="crop", resize=20, crop_padding=0, flip=False)
    plain = next(data.train.batches(22, seed=None))[0]
    expected = loaded(folder, resize=20, normalisation="own")
    assert torch.equal(next(data.train.uint8_batches(22))[0], next(expected.train.uint8_batches(22))[0])
    assert sorted(epoch_of(data, 22)[0].sum((1, 2, 3)).tolist()) == sorted(plain.sum((1, 2, 3)).tolist())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": None}, r"`augmentation` \(='resized_crop'\): needs `image_size`"),
        ({"crop_padding": 0}, r"`crop_padding` \(=0\): not used by `augmentation` \(=resized_crop\)"),
        ({"resize": 15}, r"`resize` \(=15\): must be >= `image_size` \(=16\)"),
        ({"image_size": None, "resize": 15, "augmentation": "crop"}, r"`resize` \(=15\): needs `image_size`"),
        ({"augmentation": "crops"}, r"`augmentation` \(='crops'\)"),
        ({"normalisation": "none"}, r"`normalisation` \(='none'\)"),
    ],
)
def test_bad_options_are_refused(tmp_path: Path, options: dict[str, object], message: str):
    with pytest.raises(OptionsError, match=message):
        DataConfig(name="imagefolder", root=tmp_path, **{**CROPS, **options})  # type: ignore[arg-type]


def test_what_does_not_fit_is_told(folder: Path):
    (folder / "train/a/00.png").write_bytes(encode(noise(1, (1, 60_000, 3))[0]))
    with pytest.raises(ValueError, match=r"a/00.png: too narrow: .* at `resize` \(=256\)"):
        loaded(folder, image_size=224)
    with pytest.raises(ValueError, match=r"`data.normalisation` \(=imagenet\) is of colour images, but these are grey"):
        load(DataConfig(name="digits", normalisation="imagenet"))


def test_a_broken_image_is_named(folder: Path):
    whole = encode(noise(1, (60, 60, 3))[0])
    (folder / "train/b/03.png").write_bytes(whole[:4000])
    with pytest.raises(ValueError, match=r"b/03.png: broken image"):
        loaded(folder)
    data = loaded(folder, memory_limit_mb=0, workers=2, normalisation="imagenet")
    with pytest.raises(ValueError, match=r"b/03.png: broken image"):
        epoch_of(data, 22)
    assert len(loaded(folder, on_bad_image="skip").train) == 21


def test_a_run_goes_on_to_the_same_bits(folder: Path, tmp_path: Path, display, stop_after):
    """Stopped within the second epoch; goes on streamed, with another number of workers."""
    data = {"name": "imagefolder", "root": folder, **CROPS}

    def config(**options: object):
        values = {
            "method": "none",
            "student": "resnet8",
            "layer": "conv",
            "epochs": 3,
            "batch_size": 4,
            "device": "cpu",
        }
        return train.config_type()(**values, data={**data, **options})

    train.train(config(), tmp_path / "whole", display=display)
    with pytest.raises(train.Interrupted):
        train.train(config(), tmp_path / "parts", display=stop_after(8))
    train.train(config(memory_limit_mb=0, workers=1), tmp_path / "parts", resume=True, display=display)
    files = [(tmp_path / name / "last.safetensors").read_bytes() for name in ("whole", "parts")]
    assert files[0] == files[1]


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")
def test_pixels_and_numbers_are_torchvisions():
    from torchvision.transforms import RandomResizedCrop
    from torchvision.transforms.functional import resized_crop

    image = Image.fromarray(noise(1, (120, 90, 3))[0])
    words = augment.crop_words(3000, seed=5, epoch=0, step=0)
    left, top, right, bottom = random_window(90, 120, words[0])
    expected = resized_crop(image, top, left, bottom - top, right - left, [64, 64])
    assert np.array_equal(np.asarray(expected), np.asarray(ResizedCrop(64, words[0])(image)))
    torch.manual_seed(0)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(3000)])
    ours = np.array([(t, l, b - t, r - l) for l, t, r, b in (random_window(90, 120, row) for row in words)])  # noqa: E741
    for column in range(4):  # 3,000 draws each: quartiles agree to 5 % of the range or so
        spread = theirs[:, column].max() - theirs[:, column].min()
        quartiles = [np.quantile(values[:, column], (0.25, 0.5, 0.75)) for values in (theirs, ours)]
        assert np.abs(quartiles[0] - quartiles[1]).max() < 0.06 * spread
