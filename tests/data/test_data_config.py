from pathlib import Path

import pytest

from adderkit.data import DataConfig
from adderkit.options import OptionsError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "cifar11"}, r"`name` \(='cifar11'\): there is no data source 'cifar11'. Did you mean cifar1"),
        ({"nmae": "digits"}, "unknown key `nmae`"),
        ({"image_size": 0}, r"`image_size` \(=0\)"),
        ({"crop_padding": -1}, "`crop_padding`"),
        ({"workers": -1}, "`workers`"),
        ({"memory_limit_mb": -1}, "`memory_limit_mb`"),
        ({"label": ""}, "`label`"),
        ({"train_rows": "5"}, r"`train_rows` \(='5'\): must be START:STOP"),
        ({"test_rows": "-1:5"}, r"`test_rows` \(='-1:5'\): must be START:STOP"),
        ({"name": "parquet", "train": "a"}, r"`test` \(=None\): goes with `train` \(=.*a\): give both"),
        ({"name": "parquet", "test": "a"}, r"`test` \(='a'\): goes with `train` \(=None\): give both"),
        ({"train": "a", "test": "b"}, r"`train` \(='a'\): not used by `name` \(=digits\), which takes no files"),
        ({"root": "a"}, r"`root` \(='a'\): not used by `name` \(=digits\)"),
        ({"name": "cifar10", "train": "a", "test": "b"}, r"not used by `name` \(=cifar10\), which takes `root`"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str):
    with pytest.raises(OptionsError, match=message):
        DataConfig(**options)  # type: ignore[arg-type]


def test_one_message_per_culprit():
    with pytest.raises(OptionsError) as caught:
        DataConfig(name="nothing", train="a", test="b")  # type: ignore[arg-type]
    assert len(caught.value.problems) == 1


def test_home_is_expanded():
    assert DataConfig(name="cifar10", root=Path("~/x")).root == Path.home() / "x"


def test_round_trip_through_json():
    config = DataConfig(name="parquet", train=Path("a"), test=Path("b"), train_rows=":5")
    assert DataConfig.model_validate_json(config.model_dump_json()) == config
