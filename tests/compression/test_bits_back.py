"""Bits-back coding of a model in NumPy: images come back, and cost the bound."""

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm

from vae_jax.compression import Bernoulli, Coder, LatentGrid, Stack, compress, decompress
from vae_jax.errors import UserError

LATENTS, PIXELS = 2, 12
WEIGHTS = 2 * np.random.default_rng(0).normal(size=(LATENTS, PIXELS))


def drawn(n, seed=1):
  """Draws of the model, x of p(x | z) = Bernoulli(logits z W): latents and pixels."""
  random = np.random.default_rng(seed)
  z = random.normal(size=(n, LATENTS))
  return z, (random.random((n, PIXELS)) < expit(z @ WEIGHTS)).astype(np.uint8)


def fitted():
  """V and log variances of q(z | x) = N((x - 1/2) V, ...): linear regression, so that q(z) has the moments of p(z).

  Where it does not, the bits of one image's latents are no random bits for the next image ("dirty bits")."""
  z, x = drawn(20000, seed=3)
  seen = np.linalg.lstsq(x - 0.5, z, rcond=None)[0]
  return seen, np.log(np.square(z - (x - 0.5) @ seen).mean(axis=0))


SEEN, LOGVAR = fitted()


def coder(bits=12):
  """The model, and its posterior."""
  return Coder(
    encode=lambda x: (
      (x.reshape(len(x), -1) - 0.5) @ SEEN,
      np.broadcast_to(LOGVAR, (len(x), LATENTS)),
    ),
    decode=lambda z: ((z @ WEIGHTS).reshape(-1, 3, 4, 1),),
    pixels=Bernoulli,
    shape=(3, 4, 1),
    latents=LATENTS,
    grid=LatentGrid(bits),
  )


def images(n, seed=1):
  return drawn(n, seed)[1].reshape(n, 3, 4, 1)


def bound(x, samples=50):
  """-ELBO in bits of all images, by its definition."""
  random, flat = np.random.default_rng(2), x.reshape(len(x), -1)
  mean, sigma = (flat - 0.5) @ SEEN, np.exp(0.5 * LOGVAR)
  total = 0.0
  for _ in range(samples):
    z = mean + sigma * random.normal(size=mean.shape)
    logits = z @ WEIGHTS
    total += (np.log1p(np.exp(-np.abs(logits))) + np.maximum(logits, 0) - flat * logits).sum()
    total += (norm.logpdf(z, mean, sigma) - norm.logpdf(z)).sum()
  return total / samples / np.log(2)


@pytest.mark.parametrize(("n", "lanes"), [(1, 1), (7, 1), (7, 7), (7, 3), (8, 4)])
@pytest.mark.parametrize("bits", [1, 12, 16])
def test_images_come_back_whatever_the_lanes_and_buckets(n, lanes, bits):
  x = images(n)
  stack = compress(coder(bits), x, lanes)
  np.testing.assert_array_equal(decompress(coder(bits), Stack(*stack.parts()), n), x)


def test_images_cost_the_bound():
  """Within 1 %, counting the random bits with which the lanes begin."""
  x = images(4000)
  stack = compress(coder(), x, 8)
  ideal = bound(x)
  assert abs((stack.bits - 64 * 8) / ideal - 1) < 0.01
  assert stack.taken.max() <= 1  # 2 latents have less than a word of initial bits beside the head


def test_few_buckets_cost_more():
  x = images(1000)
  assert compress(coder(1), x, 8).bits > 1.02 * compress(coder(12), x, 8).bits


def test_another_model_does_not_end_where_the_lanes_began():
  x = images(30)
  stack = compress(coder(), x, 3)
  other = coder()._replace(decode=lambda z: ((z @ WEIGHTS + 1e-3).reshape(-1, 3, 4, 1),))
  with pytest.raises(UserError, match=r"does not end where it began|empty before all"):
    decompress(other, Stack(*stack.parts()), 30)


def test_a_model_that_is_not_finite_is_refused():
  broken = coder()._replace(decode=lambda z: (np.full((len(z), 3, 4, 1), np.nan),))
  with pytest.raises(UserError, match="not finite"):
    compress(broken, images(2), 1)
