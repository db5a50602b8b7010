from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from generated_images import CLASSES, encode, noise, write_parquet

from adderkit.data import DataConfig, load

Pair = Callable[..., dict[str, Path]]
PNGS = [encode(image) for image in noise(6)]
LABELS = [0, 1, 2, 0, 1, 2]


def pixels_of(data_split: object) -> np.ndarray:
    return next(data_split.uint8_batches(100))[0].permute(0, 2, 3, 1).numpy()  # type: ignore[attr-defined]


def test_images_labels_and_class_names(pair: Pair):
    data = load(DataConfig(name="parquet", **pair(PNGS)))
    assert data.classes == CLASSES
    assert (data.channels, data.height, data.width) == (3, 9, 7)
    assert np.array_equal(pixels_of(data.train), noise(6))
    assert data.train.labels.tolist() == LABELS and len(data.test) == 3


@pytest.mark.parametrize("columns", [("img", "fine_label"), ("image", "labels"), ("img", "label")])
def test_other_column_names(pair: Pair, columns: tuple[str, str]):
    data = load(DataConfig(name="parquet", **pair(PNGS, image_column=columns[0], label_column=columns[1])))
    assert data.classes == CLASSES and len(data.train) == 6


def test_plain_binary_column(tmp_path: Path):
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": pa.array(PNGS, pa.large_binary()), "label": pa.array(LABELS, pa.int8())}), file)
    data = load(DataConfig(name="parquet", train=file, test=file))
    assert data.classes == ("0", "1", "2") and data.name == "a"
    assert np.array_equal(pixels_of(data.test), noise(6))


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        (("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test-00000-of-00001.parquet"), "set"),
        (("data/train-0.parquet", "data/train-1.parquet", "data/validation-0.parquet"), "set"),
        (("train/a.parquet", "train/b.parquet", "test/a.parquet"), "set"),
        (("x-train-0.parquet", "x-train-1.parquet", "x_val.parquet"), "set"),
    ],
)
def test_root_folder_with_shards(tmp_path: Path, layout: tuple[str, ...], name: str):
    root = tmp_path / "set"
    for i, file in enumerate(layout):
        write_parquet(root / file, PNGS[2 * i : 2 * i + 2], LABELS[2 * i : 2 * i + 2])
    data = load(DataConfig(name="parquet", root=root))
    assert data.name == name
    assert np.array_equal(pixels_of(data.train), noise(6)[:4]) and np.array_equal(pixels_of(data.test), noise(6)[4:])
    assert data.train.labels.tolist() == LABELS[:4]


def test_folders_of_shards_and_their_row_numbers(tmp_path: Path):
    write_parquet(tmp_path / "set/train/0.parquet", PNGS[:4], LABELS[:4])
    write_parquet(tmp_path / "set/train/1.parquet", [PNGS[4], b"text"], [0, 1])
    test = write_parquet(tmp_path / "set/test.parquet", PNGS, LABELS)
    with pytest.raises(ValueError, match=r"1.parquet:1: not an image"):
        load(DataConfig(name="parquet", train=tmp_path / "set/train", test=test))
    write_parquet(tmp_path / "set/train/1.parquet", PNGS[4:], LABELS[4:])
    data = load(DataConfig(name="parquet", train=tmp_path / "set/train", test=test))
    assert len(data.train) == 6 and data.name == "set"


def test_several_sets_in_one_root_are_refused(tmp_path: Path):
    for name in ("a-train", "a-test", "b-train", "b-test"):
        write_parquet(tmp_path / f"{name}.parquet", PNGS, LABELS)
    with pytest.raises(ValueError, match=r"holds several sets \(a-train.parquet, b-train.parquet\)"):
        load(DataConfig(name="parquet", root=tmp_path))


def test_root_without_test_files_is_refused(tmp_path: Path):
    write_parquet(tmp_path / "train.parquet", PNGS, LABELS)
    with pytest.raises(ValueError, match=r"holds no parquet file named test or validation or val"):
        load(DataConfig(name="parquet", root=tmp_path))


def test_missing_options_and_files_are_refused(tmp_path: Path, pair: Pair):
    with pytest.raises(ValueError, match=r"needs `data\.train` and `data\.test`, or `data\.root`"):
        load(DataConfig(name="parquet"))
    with pytest.raises(ValueError, match=r"`data.train` \(=.*none\) does not exist"):
        load(DataConfig(name="parquet", train=tmp_path / "none", test=tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"`data.train` \(=.*empty\) holds no \*.parquet file"):
        load(DataConfig(name="parquet", train=tmp_path / "empty", test=tmp_path / "empty"))
    with pytest.raises(ValueError, match=r"`data.root` .* cannot go with `data.train` and `data.test`"):
        load(DataConfig(name="parquet", root=tmp_path, **pair(PNGS)))


def test_missing_columns_are_refused(tmp_path: Path, pair: Pair):
    files = pair(PNGS, image_column="picture")
    with pytest.raises(ValueError, match=r"train.parquet: no image column: need image or img, found picture, label"):
        load(DataConfig(name="parquet", **files))
    files = pair(PNGS, label_column="target")
    with pytest.raises(ValueError, match=r"no label column: need label or labels or fine_label, found image, target"):
        load(DataConfig(name="parquet", **files))


def test_columns_of_other_types_are_refused(tmp_path: Path):
    file = tmp_path / "a.parquet"
    for images, labels, message in (
        (pa.array(["x"]), pa.array([0]), r"column `image` \(=string\) must be a struct"),
        (pa.array(PNGS[:1]), pa.array(["ant"]), r"column `label` \(=string\) must hold integers"),
    ):
        pq.write_table(pa.table({"image": images, "label": labels}), file)
        with pytest.raises(ValueError, match=message):
            load(DataConfig(name="parquet", train=file, test=file))


def test_empty_cells_are_refused(tmp_path: Path, pair: Pair):
    files = pair(PNGS)
    write_parquet(files["train"], PNGS, [0, 1, None, 0, 1, 2])
    with pytest.raises(ValueError, match=r"train.parquet:2: no label"):
        load(DataConfig(name="parquet", **files))
    write_parquet(files["train"], [*PNGS[:3], None, *PNGS[4:]], LABELS)
    with pytest.raises(ValueError, match=r"train.parquet:3: .*no image bytes"):
        load(DataConfig(name="parquet", **files))
    write_parquet(files["train"], [], [])
    with pytest.raises(ValueError, match=r"flowers-train.parquet: no images"):
        load(DataConfig(name="parquet", **files))


def test_damaged_file_is_refused(pair: Pair):
    files = pair(PNGS)
    files["test"].write_bytes(files["test"].read_bytes()[:200])
    with pytest.raises(ValueError, match=r"flowers-test.parquet: not a readable parquet file"):
        load(DataConfig(name="parquet", **files))


def test_damaged_metadata_is_refused(pair: Pair):
    files = pair(PNGS)
    table = pq.read_table(files["train"]).replace_schema_metadata({"huggingface": "{not json"})
    pq.write_table(table, files["train"])
    with pytest.raises(ValueError, match=r"flowers-train.parquet: .*metadata `huggingface`"):
        load(DataConfig(name="parquet", **files))


def test_class_lists_that_differ_are_refused(pair: Pair):
    files = pair(PNGS)
    write_parquet(files["test"], PNGS, LABELS, classes=("ant", "cat", "bee"))
    with pytest.raises(ValueError, match=r"class names of .*test.parquet .* differ from those of .*train.parquet"):
        load(DataConfig(name="parquet", **files))
