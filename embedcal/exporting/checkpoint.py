"""The folder that open_clip loads: weights, config, tokenizer where it needs one, head, script."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedcal.exporting.facts import KEY
from embedcal.exporting.portable import Portable
from embedcal.types import EmbedcalError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedcal.encoders.clip import ClipEncoder
    from embedcal.heads import Head

# Names that open_clip looks for. Of several checkpoints in a folder it takes this one first.
WEIGHTS = "open_clip_model.safetensors"
CONFIG = "open_clip_config.json"
HEAD = "head.safetensors"
SCRIPT = "score.py"
CARD = "README.md"

# embedcal.encoders.tiny.model.build as open_clip's own kind of config
TINY: Mapping[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"layers": [1, 1, 1, 1], "width": 16, "head_width": 64, "image_size": 64},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}


def model_of(encoder: ClipEncoder) -> Any:
    """The open_clip model behind an encoder, unmodified."""
    return encoder._model


def calibrate(model: Any, head: Head) -> None:
    """Put the parts of CLIP that a head has trained in their places, in ``model`` itself.

    The image projection, or the whole attention pool; the text projection where the scope trained
    it; the temperature.
    """
    import torch

    state = head.state_dict()
    with torch.no_grad():
        if head.name == "attnpool":
            pool = model.visual.attnpool.state_dict()
            model.visual.attnpool.load_state_dict({name: state[name] for name in pool})
        elif hasattr(model.visual, "attnpool"):
            model.visual.attnpool.c_proj.weight.copy_(state["image_weight"])
            model.visual.attnpool.c_proj.bias.copy_(state["image_bias"])
        else:
            model.visual.proj.copy_(state["image_weight"].T)
        if "text_weight" in state:
            tower = getattr(model, "text", model)
            tower.text_projection.copy_(state["text_weight"].T)
        model.logit_scale.copy_(state["logit_scale"].reshape(model.logit_scale.shape))


def config_of(encoder: ClipEncoder) -> dict[str, Any]:
    """What open_clip makes the model and its preprocessing from."""
    import open_clip

    name = encoder.meta.name
    model = TINY if name == "tiny" else open_clip.get_model_config(name)
    if model is None:
        raise EmbedcalError(
            f"expected an architecture of open_clip's for {name}, found none of that name: use "
            "--to safetensors"
        )
    prepared = {k: v for k, v in encoder.meta.preprocessing.items() if k != "decoder"}
    return {"model_cfg": dict(model), "preprocess_cfg": prepared}


def write_folder(
    folder: Path, encoder: ClipEncoder, head: Portable, facts: Mapping[str, Any], card: str
) -> None:
    """Write the model as it is now, with what is needed to use it, into an empty folder."""
    write_tensors(model_of(encoder).state_dict(), folder / WEIGHTS, {"format": "pt"})
    config = json.dumps(config_of(encoder), indent=2) + "\n"
    (folder / CONFIG).write_text(config, encoding="utf-8")
    keep = getattr(encoder._tokenizer, "save_pretrained", None)
    if keep is not None:  # one from the hub; open_clip then reads it from this folder
        keep(folder)
    write_tensors(head.tensors, folder / HEAD, {KEY: json.dumps(facts)})
    shutil.copyfile(Path(__file__).with_name(SCRIPT), folder / SCRIPT)
    (folder / CARD).write_text(card, encoding="utf-8")


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Named tensors as safetensors, readable as any other file."""
    from safetensors.torch import save_file

    # Copies of their own, since safetensors refuses tensors that share memory.
    own = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    save_file(own, path, metadata=metadata)
    path.chmod(0o644)  # safetensors makes it private


def module_of(encoder: ClipEncoder, level: str) -> nn.Module:
    """The image tower as the scoring script cuts it: pictures (b, 3, h, w) -> features (b, ...)."""
    from embedcal.exporting.score import cut

    tower: nn.Module = model_of(encoder).visual
    cut(tower, level)
    return tower
