"""Every network with ``save_pretrained``, ``from_pretrained`` and ``push_to_hub`` of the Hugging Face hub.

``pip install 'polychron[hub]'``. With transformers, ``polychron.hub.causal_lm`` registers the language models there.
"""

from polychron.hub.models import DeepClassifier, DelayLM, HubModel, RecurrentLM, TransformerLM, from_checkpoint

__all__ = ["DeepClassifier", "DelayLM", "HubModel", "RecurrentLM", "TransformerLM", "from_checkpoint"]
