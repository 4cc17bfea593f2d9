"""The pretrained models: what each is, how it is built from its weights, which are on this
computer, and how published ones get here. What is listed is listed without torch; nothing here
embeds a scan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..system.doors import open_door

if TYPE_CHECKING:
    from .choices import ModelChoice, model_choices
    from .model import Model, ModelCard, build_network, load_model, save_model
    from .published import RELEASED_INTENSITY

__all__, __getattr__ = open_door(__name__)
