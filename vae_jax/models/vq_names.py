"""The names of VQGAN's published weights, and the parameters of `vq_model` that they are.

Two origins: CompVis/taming-transformers ("encoder.down.0.block.0.norm1.weight") and the VQModel of diffusers
("encoder.down_blocks.0.resnets.0.norm1.weight"), which counts the decoder's levels from the lowest resolution up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from vae_jax.errors import UserError

Path = tuple[str, ...]

# What a file of the whole model has beside it: discriminator and LPIPS.
OTHERS = ("loss.",)
CODES: Path = ("codes",)
# Names of diffusers, older ones too, in the words of taming-transformers.
WORDS = {
  r"\.down_blocks\.(\d+)\.resnets\.": r".down.\1.block.",
  r"\.down_blocks\.(\d+)\.attentions\.": r".down.\1.attn.",
  r"\.down_blocks\.(\d+)\.downsamplers\.0\.": r".down.\1.downsample.",
  r"\.mid_block\.resnets\.0\.": ".mid.block_1.",
  r"\.mid_block\.resnets\.1\.": ".mid.block_2.",
  r"\.mid_block\.attentions\.0\.": ".mid.attn_1.",
  r"\.conv_norm_out\.": ".norm_out.",
  r"\.conv_shortcut\.": ".nin_shortcut.",
  r"\.group_norm\.": ".norm.",
  r"\.(to_q|query)\.": ".q.",
  r"\.(to_k|key)\.": ".k.",
  r"\.(to_v|value)\.": ".v.",
  r"\.(to_out\.0|proj_attn)\.": ".proj_out.",
}
UP = {"resnets": "block", "attentions": "attn", "upsamplers": "upsample"}


def taming_name(name: str, levels: int) -> str:
  """The name in taming-transformers of a parameter that diffusers calls `name`; any other name as it is.

  levels: of the model, `len(ch_mult)`.
  """
  for words, others in WORDS.items():
    name = re.sub(words, others, name)

  def up(found: re.Match[str]) -> str:
    level, kind, number = levels - 1 - int(found[1]), UP[found[2]], found[3]
    return f".up.{level}.{kind}." + ("" if kind == "upsample" else f"{number}.")

  return re.sub(r"\.up_blocks\.(\d+)\.(resnets|attentions|upsamplers)\.(\d+)\.", up, name)


def path_of(name: str, levels: int) -> Path | None:
  """Where in `params` the array goes that a file of the published weights calls `name`; None: it is no part of it.

  levels: of the model, `len(ch_mult)`. Raises UserError for a name that neither origin has.
  """
  if name.startswith(OTHERS):
    return None
  words = taming_name(name, levels)
  if words == "quantize.embedding.weight":
    return CODES
  shape = re.fullmatch(
    r"(?:(encoder|decoder)\.)?"
    r"(conv_in|conv_out|norm_out|quant_conv|post_quant_conv"
    r"|mid\.(?:block_[12]|attn_1)|(?:down|up)\.\d+\.(?:(?:block|attn)\.\d+|downsample|upsample))"
    r"(?:\.(norm1|norm2|conv1|conv2|nin_shortcut|norm|q|k|v|proj_out|conv))?\.(weight|bias)",
    words,
  )
  if shape is None or (shape[1] is None) != shape[2].endswith("quant_conv"):
    raise UserError(
      f"{name[:80]!r} is no parameter of a VQGAN; give weights of taming-transformers or diffusers"
    )
  network, layer, inner, leaf = shape.groups()
  inner = None if inner == "conv" else inner  # of down-sampling and up-sampling
  leaf = leaf if leaf == "bias" else "scale" if "norm" in (inner or layer) else "kernel"
  return tuple(part for part in (network, layer.replace(".", "_"), inner, leaf) if part)


def params_of(arrays: Mapping[str, np.ndarray], levels: int) -> dict[str, np.ndarray]:
  """The parameters of published weights, by "/"-joined path, with axes as here.

  Their pixels are in [-1, 1], and those here 0.5 + the decoder's output: so the last layer is halved.
  arrays: of a state dict, by name. levels: of the model. Raises UserError for a name that neither origin has.
  """
  found = {}
  for name, array in arrays.items():
    path = path_of(name, levels)
    if path is None:
      continue
    if path[-1] == "kernel":
      array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
      array = array[0, 0] if array.shape[:2] == (1, 1) else array
    found["/".join(path)] = 0.5 * array if path[:2] == ("decoder", "conv_out") else array
  return found
