"""Reading a model's folder without PyTorch: ``config.json`` and the header and bytes of its weights."""

from polychron.storage.config_file import CONFIG_NAME, FORMAT, VERSION, WEIGHTS_PATTERN, read_config
from polychron.storage.tensor_file import TensorFile

__all__ = ["CONFIG_NAME", "FORMAT", "VERSION", "WEIGHTS_PATTERN", "TensorFile", "read_config"]
