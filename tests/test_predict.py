"""`adderkit predict` as a user types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.append(str(Path(__file__).parent / "runtime"))

from network_file import Builder, encode

from adderkit import cli, native, runtime
from adderkit.data import image

if native.library() is None:
    pytest.skip(f"no native library: {native.reason()}", allow_module_level=True)

PATHS = [os.path.abspath(path) for path in sys.path if path]  # the tests change the folder
COLOURS = ("red", "green", "blue")


def colours(height: int = 4, width: int = 4, channels: int = 3, **facts) -> bytes:
    """A network whose logits are the means of the channels, in sixteenths."""
    build = Builder(0, height=height, width=width, channels=channels)
    weight = np.zeros((channels, height, width, channels), np.int8)
    for k in range(channels):
        weight[k, ..., k] = 1
    build.classifier(channels, 0)
    build.layers[0]["shift"] = 20
    arrays = {
        "0.weight": weight,
        "0.multiplier": np.full(channels, round(2**20 / (height * width)), np.int32),
        "0.offset": np.full(channels, 2**19),
    }
    classes = COLOURS[:channels] if channels > 1 else ("grey",)
    return encode(build.network(classes=list(classes), logit_shift=4, **facts), arrays)


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A folder with a network and pictures of one colour each."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    Path("net.adk").write_bytes(colours())
    for k, name in enumerate(COLOURS):
        colour = tuple(200 if c == k else 40 for c in range(3))
        Image.new("RGB", (9, 6), colour).save(f"{name}.png")
    return tmp_path


def lines(text: str) -> list[list[str]]:
    """Cells of the rows of a table."""
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if line.startswith("│")]


def test_best_classes_of_each_picture(room, capsys):
    assert cli.main(["predict", "net.adk", "green.png", "blue.png", "--top", "2"]) == 0
    out, err = capsys.readouterr()
    found = lines(out)
    assert [row[1] for row in found[::2]] == ["green", "blue"]
    assert [row[0] for row in found] == ["green.png", "", "blue.png", ""]
    assert found[0][2] == "99.99 %" and found[1][2] == "0.00 %"
    assert "drawn, trained on noise" in out and not err


def test_json(room, capsys):
    assert cli.main(["predict", "net.adk", "red.png", "gone.png", "--json"]) == 2
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["net"], found["network"], found["dataset"]) == ("net.adk", "drawn", "noise")
    first, second = found["images"]
    shares = np.exp(np.array([200, 40, 40]) / 16 - 12.5)
    assert first["image"] == "red.png"
    assert [(best["class"], best["index"]) for best in first["classes"]] == [("red", 0), ("green", 1), ("blue", 2)]
    np.testing.assert_allclose([best["probability"] for best in first["classes"]], shares / shares.sum(), rtol=1e-6)
    assert "gone.png: can't be read (No such file or directory)" in second["error"] and second["image"] == "gone.png"
    assert "gone.png" in err


def test_pictures_that_can_not_be_used_are_named_and_the_others_go_on(room, capsys):
    (room / "text.png").write_text("no picture")
    noise(9, 9, 3).save("half.png")
    (room / "half.png").write_bytes((room / "half.png").read_bytes()[:150])
    (room / "\x1b[31m.png").write_text("no picture")
    (room / "album").mkdir()
    os.mkfifo(room / "pipe")
    bad = ["text.png", "half.png", "\x1b[31m.png", "album", "pipe", "gone.png"]
    assert cli.main(["predict", "net.adk", "red.png", *bad, "blue.png", "--top", "1"]) == 2
    out, err = capsys.readouterr()
    assert [row[:2] for row in lines(out)] == [["red.png", "red"], ["blue.png", "blue"]]
    assert len(err.splitlines()) == len(bad)
    for expected in (
        "adderkit predict: text.png: not an image, or of another format than BMP",
        "adderkit predict: half.png: broken image",
        "adderkit predict: \\x1b[31m.png: not an image",
        "adderkit predict: album: a folder; name the pictures in it, as album/*",
        "adderkit predict: pipe: no regular file",
        "adderkit predict: gone.png: can't be read (No such file or directory)",
    ):
        assert expected in err
    assert "data.on_bad_image" not in err  # an option of trainings


def test_no_picture_at_all_prints_no_table(room, capsys):
    assert cli.main(["predict", "net.adk", "gone.png"]) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["net.adk"], "name one picture or more after the network"),
        (["gone.adk", "red.png"], "`gone.adk` can't be read: No such file or directory"),
        (["red.png", "net.adk"], "`red.png` is no integer network of adderkit"),
        (["net.adk", "red.png", "--top", "0"], "`top` (=0) must be 1 or more"),
        (["net.adk", "red.png", "--threads", "-1"], "`threads` (=-1) must be a whole number from 0 to 4096"),
    ],
)
def test_arguments_that_can_not_be(room, capsys, arguments, expected):
    assert cli.main(["predict", *arguments]) == 2
    out, err = capsys.readouterr()
    assert expected in err and not out


def test_more_pictures_than_a_batch(room, capsys):
    names = [f"{COLOURS[k % 3]}.png" for k in range(150)]
    names[70] = "gone.png"
    assert cli.main(["predict", "net.adk", *names, "--json", "--threads", "2"]) == 2
    found = json.loads(capsys.readouterr().out)["images"]
    assert [item["image"] for item in found] == names
    assert "error" in found[70]
    assert all(item["classes"][0]["class"] == item["image"][:-4] for item in found if "error" not in item)


def predicted_pixels(monkeypatch, net_file: bytes, picture: str) -> np.ndarray:
    """What reaches the network."""
    seen = []
    call = runtime.Net.__call__

    def spy(self, images, threads=0):
        seen.append(images)
        return call(self, images, threads)

    monkeypatch.setattr(runtime.Net, "__call__", spy)
    Path("other.adk").write_bytes(net_file)
    assert cli.main(["predict", "other.adk", picture]) == 0
    return seen[0][0]


def noise(*shape: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8))


def test_pictures_are_prepared_as_by_the_training(room, monkeypatch):
    noise(20, 31, 3).save("wide.png")
    expected = image.decode(image.open_image("wide.png"), 4)  # `data.image_size` 4
    np.testing.assert_array_equal(predicted_pixels(monkeypatch, colours(), "wide.png"), expected)
    upright = noise(31, 20, 3)
    exif = Image.Exif()
    exif[0x112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save("turned.png", exif=exif)
    upright.save("upright.png")
    np.testing.assert_array_equal(
        predicted_pixels(monkeypatch, colours(), "turned.png"), predicted_pixels(monkeypatch, colours(), "upright.png")
    )


def test_the_centre_after_a_larger_resize(room, monkeypatch):
    """As `data.resize`: the header says so."""
    noise(20, 31, 3).save("wide.png")
    expected = image.decode(image.open_image("wide.png"), 9)[2:6, 2:6]
    np.testing.assert_array_equal(predicted_pixels(monkeypatch, colours(resize=9), "wide.png"), expected)


@pytest.mark.parametrize(("size", "resize"), [((4, 4), 3), ((4, 4), "9"), ((4, 4), True), ((4, 6), 9), ((4, 4), 65537)])
def test_a_resize_that_can_not_be(room, capsys, size, resize):
    Path("other.adk").write_bytes(colours(*size, resize=resize))
    assert cli.main(["predict", "other.adk", "red.png"]) == 2
    assert f"`resize` (={resize!r}) in the network's header must be a whole number" in capsys.readouterr().err


def test_pictures_of_the_networks_size_stay_as_they_are(room, monkeypatch):
    picture = noise(4, 6, 3)
    picture.save("same.png")
    found = predicted_pixels(monkeypatch, colours(4, 6), "same.png")
    np.testing.assert_array_equal(found, np.asarray(picture))


@pytest.mark.parametrize(("size", "covering"), [((20, 20), (6, 6)), ((9, 40), (18, 4)), ((40, 9), (6, 27))])
def test_a_network_of_another_shape_than_a_square(room, monkeypatch, size, covering):
    """The picture is resized until it just covers 4x6, and cut around its centre."""
    picture = noise(*size, 3)
    picture.save("other.png")
    width, height = covering
    resized = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
    top, left = (height - 4) // 2, (width - 6) // 2
    found = predicted_pixels(monkeypatch, colours(4, 6), "other.png")
    np.testing.assert_array_equal(found, resized[top : top + 4, left : left + 6])


def test_grey_pictures_for_colours_and_coloured_ones_for_grey(room, monkeypatch):
    noise(4, 4).save("grey.png")
    found = predicted_pixels(monkeypatch, colours(), "grey.png")
    for k in range(3):
        np.testing.assert_array_equal(found[..., k], np.asarray(Image.open("grey.png")))
    Image.new("RGB", (4, 4), (255, 0, 0)).save("red.png")
    found = predicted_pixels(monkeypatch, colours(channels=1), "red.png")
    assert found.shape == (4, 4, 1) and set(found.ravel()) == {76}  # 299 of 1000 parts


def test_names_can_not_control_the_terminal(room, capsys):
    Path("net.adk").write_bytes(colours(name="[bold]n\x1b[0m", dataset="[/x]"))
    os.rename("red.png", "[red]a.png")
    assert cli.main(["predict", "net.adk", "[red]a.png"]) == 0
    out = capsys.readouterr().out
    assert "[bold]n\\x1b[0m, trained on [/x]" in out and "[red]a.png" in out and "\x1b" not in out


def test_it_imports_no_torch(room):
    script = (
        "import sys\nfrom adderkit import cli\ncode = cli.main(['predict', 'net.adk', 'blue.png', '--json'])\n"
        "sys.exit(code or [m for m in ('torch', 'sklearn', 'matplotlib', 'pyarrow') if m in sys.modules] or 0)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(PATHS)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"][0]["classes"][0]["class"] == "blue"


def test_its_help_says_what_pictures_are(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["predict", "--help"])
    assert end.value.code == 0
    assert "DIR/*" in capsys.readouterr().out
