"""Training: configuration, loop, adaptive local rate, checkpoints, the record of a run."""

from adderkit.train.config import BaseConfig, config_type, load_recipe, to_yaml
from adderkit.train.distributed import Elsewhere, LostProcess
from adderkit.train.evaluate import Scores, evaluate
from adderkit.train.files import WriteError
from adderkit.train.importing import ImportConfig, import_weights
from adderkit.train.interrupt import Interrupted
from adderkit.train.local_rate import AdaptiveLocalRate
from adderkit.train.loop import Diverged
from adderkit.train.run import train
from adderkit.train.weights import NetworkInfo, check_fits, load_network, save_network

__all__ = [
    "AdaptiveLocalRate",
    "BaseConfig",
    "Diverged",
    "Elsewhere",
    "ImportConfig",
    "Interrupted",
    "LostProcess",
    "NetworkInfo",
    "Scores",
    "WriteError",
    "check_fits",
    "config_type",
    "evaluate",
    "import_weights",
    "load_network",
    "load_recipe",
    "save_network",
    "to_yaml",
    "train",
]
