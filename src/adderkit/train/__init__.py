"""Training: configuration, loop, adaptive local rate, checkpoints, the record of a run."""

from adderkit.train.config import BaseConfig, config_type, load_recipe, to_yaml
from adderkit.train.evaluate import Scores, evaluate
from adderkit.train.importing import ImportConfig, import_official
from adderkit.train.local_rate import AdaptiveLocalRate
from adderkit.train.loop import Diverged, Interrupted
from adderkit.train.run import train
from adderkit.train.weights import NetworkInfo, load_network, save_network

__all__ = [
    "AdaptiveLocalRate",
    "BaseConfig",
    "Diverged",
    "ImportConfig",
    "Interrupted",
    "NetworkInfo",
    "Scores",
    "config_type",
    "evaluate",
    "import_official",
    "load_network",
    "load_recipe",
    "save_network",
    "to_yaml",
    "train",
]
