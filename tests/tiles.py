"""A function of images run over windows, as one array."""

from vae_jax.photos.tiling import assembled, tiled_bands


def tiled(function, image, *, factor=1, **sizes):
  return assembled(tiled_bands(function, image, factor=factor, **sizes), factor * len(image))
