"""Lossless compression by bits-back coding with ANS (Townsend, Bird & Barber 2019, arXiv:1901.04866).

`ans` is the stack of bits, `symbols` what owns its numbers, `bits_back` the order of the steps, `container` the file,
`others` what PNG and others make of the same images. No module knows a model: `bits_back.Coder` has its functions.
"""

from vae_jax.compression.ans import Stack
from vae_jax.compression.bits_back import Coder, compress, decompress
from vae_jax.compression.container import Header, digest, pack, unpack
from vae_jax.compression.others import sizes
from vae_jax.compression.symbols import Bernoulli, LatentGrid, LogisticMixture, Posterior

__all__ = [
  "Bernoulli",
  "Coder",
  "Header",
  "LatentGrid",
  "LogisticMixture",
  "Posterior",
  "Stack",
  "compress",
  "decompress",
  "digest",
  "pack",
  "sizes",
  "unpack",
]
