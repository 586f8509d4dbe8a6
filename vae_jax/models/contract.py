"""What a family of models is: a prepared batch in, named terms out. See docs/architecture.md.

A family is one file of this package. Its module is a `Family`; the file ends with `KEYS` (its config keys), `faults`
(what it refuses) and `build` (config and spec -> module).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float, Int

from vae_jax.distributions import Gaussian
from vae_jax.types import MODELLED, Array, Batch, Key, Params, Spec, Variables

Whole = Callable[[Any], Any]  # an array [b, ...] of this device -> that of all devices

# What a family may be able to do, and how a person says it.
ABILITIES = {
  "encode": "encode images into latents",
  "decode": "decode latents",
  "sample": "sample new images",
  "bound": "bound the likelihood of images",
  "restore": "restore photographs",
  "draw": "draw restorations",
  "complete": "complete images of which a part is given",
  "inpaint": "fill in pixels that a mask hides",
  "tile": "work in tiles",
  "tokens": "turn images into codes and back",
  "caption": "tell how likely a text is for an image",
}


class Mode(NamedTuple):
  """How a model is called. All but `step` and `key` are static.

  step: int32 [], the optimiser step; drives schedules inside a model.
  key: of the whole step, alike for all examples and devices.
  training: whether the model is being trained.
  samples: posterior draws per example.
  batch_size: of the whole step, over all devices and parts; batch["place"] counts up to it. 0 where nothing is trained.
  path: log q(z | x) in the importance weights takes its parameters as constants, so their gradient is that through z.
  apart: the importance weights come twice too, with gradients to the posterior and to all else: `Output.log_weights`.
  """

  step: Int[Array, ""]
  key: Key
  training: bool = False
  samples: int = 1
  batch_size: int = 0
  path: bool = False
  apart: bool = False


class Output(NamedTuple):
  """What a family reports, per example. `s` samples, `b` examples, `l` latent layers, `d` latent units.

  terms: float32 [b] each, in nats or a stated unit. `distortion` is -log p(x | z), mean over samples, summed over
    pixels; `rate` is KL(q(z | x) || p(z)). Their sum is the negative evidence bound, `Family.bound_name`.
  reconstruction: in [0, 1], what the model gives back.
  rates: the rate of each layer.
  kl_units: the KL of each latent unit; sums to the rate. For free bits.
  log_weight: log p(x, z_s) - log q(z_s | x), the importance weights of the IWAE bound; None where there are none.
  log_weights: with `Mode.apart`, `log_weight` twice, with gradients to a part alone: `posterior`, to q(z | x); `model`,
    to all else. The distortion and the reconstruction then have none to the posterior. {} without.
  latents: what terms over a batch and scores look at: `z`, `mean`, `logvar` [b, d]; `codes` int32 [b, n].
  views: images [b, h, w, c] that the family's own opponent looks at, by name, in training alone: those of one value may
    have different gradients.
  statistics: a pytree of means over the examples, from which `Family.absorb` updates what the model keeps.
  """

  terms: dict[str, Float[Array, " b"]]
  reconstruction: Float[Array, "b h w c"] | None = None
  rates: Float[Array, "b l"] | None = None
  kl_units: Float[Array, "b d"] | None = None
  log_weight: Float[Array, "s b"] | None = None
  log_weights: dict[str, Float[Array, "s b"]] = {}  # noqa: RUF012  (never changed)
  latents: dict[str, Array] = {}  # noqa: RUF012
  views: dict[str, Array] = {}  # noqa: RUF012
  statistics: Any = ()


class Family(nn.Module):
  """The base of all families. A method that a family's `CAN` does not promise is not called.

  TERMS: names of the terms that enter the loss. `distortion` is weighted by objective.alpha and `rate` by
    objective.beta; any other term NAME by the key objective.NAME, which is among the family's `KEYS`.
  CAN: its abilities, of `ABILITIES`.
  NEEDS: fields of the batch that it reads beside the images.
  PRIOR: what its samples are drawn from, in words for files of scores; `prior_words` of this model.
  RATED: name of the validation score, lower is better, that chooses the best checkpoint. Where it is not `loss`, there
    is no loss of a split.
  UNBOUNDED: why it bounds no likelihood, for a family that does not and has latents; after its name and "has".
  STANDARD_PRIOR: whether its latents have the prior N(0, I), with which scores compare the posteriors `mean`, `logvar`;
    `standard_prior` of this model.
  WITH: the values of config keys with which a model of the family has all abilities of `CAN`.
  """

  TERMS: ClassVar[tuple[str, ...]] = ()
  CAN: ClassVar[frozenset[str]] = frozenset()
  NEEDS: ClassVar[frozenset[str]] = frozenset()
  PRIOR: ClassVar[str] = "N(0, I)"
  RATED: ClassVar[str] = "loss"
  UNBOUNDED: ClassVar[str] = ""
  STANDARD_PRIOR: ClassVar[bool] = False
  WITH: ClassVar[str] = "model.latent_dim > 0"

  @property
  def can(self) -> frozenset[str]:
    """The abilities of this model; a config may take some of the family's away."""
    return self.CAN

  @property
  def terms(self) -> tuple[str, ...]:
    """The terms of this model; a config may take some of the family's away."""
    return self.TERMS

  @property
  def standard_prior(self) -> bool:
    """`STANDARD_PRIOR` of this model; a config may choose another prior."""
    return self.STANDARD_PRIOR

  @property
  def prior_words(self) -> str:
    """`PRIOR` of this model."""
    return self.PRIOR

  @property
  def absent(self) -> dict[str, str]:
    """Scores that a config takes from this model, each with the reason."""
    return {}

  @property
  def bound_name(self) -> str:
    """The name of distortion + rate in logs and scores; "" where it bounds nothing. `neg_elbo` is that of images alone,
    so a family of other things has another name."""
    return "neg_elbo" if "bound" in self.can else ""

  @property
  def reconstructs(self) -> bool:
    """Whether the model gives images back; else its output has no reconstruction."""
    return type(self).reconstruct is not Family.reconstruct

  @property
  def needs(self) -> frozenset[str]:
    """The fields that this model reads beside the images; a config may add one to the family's (`models.needs`)."""
    return self.NEEDS

  @property
  def conditions(self) -> frozenset[str]:
    """The fields that a person gives for each image, such as a label: not what the model itself models."""
    return self.needs - MODELLED

  @property
  def options(self) -> frozenset[str]:
    """Names of what `generate` takes as options: a dict of numbers, after the temperature."""
    return frozenset()

  @property
  def begins_at(self) -> int:
    """Number of training images that the parameters of a fresh run begin at, see `begin`; 0 for none."""
    return 0

  def begin(self, params: Params, images: Float[Array, "n h w c"], key: Key) -> Params:
    """Fresh parameters, begun at `begins_at` images as the encoder sees them. Pure."""
    return params

  @property
  def units(self) -> int:
    """Latent units that the score of active units counts; 0 for none."""
    return 0

  @property
  def scored(self) -> int:
    """How many values of an image the likelihood scores, for bits per dimension; 0 for all."""
    return 0

  @property
  def codes(self) -> int:
    """Size of the codebook, the vocabulary of a prior; 0 for none."""
    return 0

  @property
  def layout(self) -> tuple[tuple[int, int, int], ...]:
    """Maps of codes, coarse first, each (h, w, codes per position), concatenated in that order; each map row by row,
    the codes of a position next to each other. () for none."""
    return ()

  @property
  def last_kernel(self) -> tuple[str, ...]:
    """The path, in `params`, to the kernel of the layer that makes the image, for adaptive weights."""
    raise NotImplementedError

  def __call__(self, batch: Batch, keys: Key, mode: Mode) -> Output:
    """Scores a prepared batch; `keys` has one key per example."""
    raise NotImplementedError

  def encode(self, batch: Batch) -> Gaussian:
    """The posterior q(z | x): mean and logvar, float32 [b, d]."""
    raise NotImplementedError

  def decode(self, z: Float[Array, "n d"], condition: Batch) -> Float[Array, "n h w c"]:
    """The mean image of p(x | z), in [0, 1]. condition: the fields that the family needs, [n, ...] each."""
    raise NotImplementedError

  def reconstruct(self, batch: Batch) -> Float[Array, "b h2 w2 c"]:
    """What the model gives back of a prepared batch, without anything drawn; in [0, 1]."""
    raise NotImplementedError

  def noise(self, key: Key, spec: Spec, origin: tuple[int, int] | Array = (0, 0)) -> Any:
    """All that `generate` draws for one example; `origin` is where a tile begins in its image."""
    raise NotImplementedError

  def generate(self, noise: Any, condition: Batch, temperature: Any = 1.0) -> Array:
    """Images in [0, 1] from noise [n, ...]; condition: the fields that the family needs, [n, ...] each.

    A second stage gives the codes or latents of images, which its first stage decodes."""
    raise NotImplementedError

  def adopt(self, params: dict[str, Any]) -> dict[str, Any]:
    """The parameters of another run of the family, with those that have another name here under that name. Pure."""
    return params

  def absorb(self, variables: Variables, statistics: Any) -> Variables:
    """The variables after an accepted step: what the model keeps, moved on by the step's statistics. Pure."""
    return variables


def codebooks(layout: tuple[tuple[int, int, int], ...]) -> tuple[int, ...]:
  """The codebook, 0, 1, ..., of each code of an image with `Family.layout`: each map has those of its own, coarse
  first, one for each code of a position."""
  found: tuple[int, ...] = ()
  for height, width, count in layout:
    first = max(found, default=-1) + 1
    found += tuple(range(first, first + count)) * (height * width)
  return found


def one_record(spec: Spec) -> Batch:
  """A batch of one record of zeros, as a training step would give it to a model."""
  batch = {field: jnp.zeros((1, *x.shape), x.dtype) for field, x in spec.items()}
  return {**batch, "place": jnp.zeros(1, jnp.int32)}  # type: ignore[typeddict-item]


def init_variables(model: Family, spec: Spec, key: Key) -> Variables:
  """Fresh variables, {"params": ..., **rest}, for records of `spec`."""
  mode = Mode(jnp.zeros((), jnp.int32), key)
  return dict(model.init(key, one_record(spec), jax.random.split(key, 1), mode))
