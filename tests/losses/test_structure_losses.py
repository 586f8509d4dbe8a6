"""Losses on structure: values against formulas in float64, gradients against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from vae_jax.errors import UserError
from vae_jax.losses.structure import ms_ssim_loss, ssim_loss, total_variation
from vae_jax.metrics.structure import ms_ssim, ssim


def gradients(loss):
  return jax.jit(jax.grad(lambda p, t: loss(p, t).sum(), argnums=(0, 1)))


SSIM_GRADIENTS, MS_SSIM_GRADIENTS = gradients(ssim_loss), gradients(ms_ssim_loss)


def noisy(seed, *shape, mean=0.5, noise=0.2):
  return (mean + noise * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def contrast64(x, y):
  taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
  window = np.outer(taps, taps) / np.outer(taps, taps).sum()
  mx, my, xx, yy, xy = (scipy.signal.convolve2d(z, window, "valid") for z in (x, y, x * x, y * y, x * y))
  luminance = (2 * mx * my + 1e-4) / (mx**2 + my**2 + 1e-4)
  return luminance, (2 * (xy - mx * my) + 9e-4) / (xx - mx**2 + yy - my**2 + 9e-4)


def ssim64(x, y):
  return np.prod(contrast64(x, y), axis=0).mean()


def ms_ssim64(x, y):
  score = 1.0
  for weight in (0.0448, 0.2856, 0.3001, 0.2363):
    score *= contrast64(x, y)[1].mean() ** weight
    x, y = (z.reshape(len(z) // 2, 2, -1, 2).mean((1, 3)) for z in (x, y))
  return score * ssim64(*(np.pad(z, 5, "reflect") for z in (x, y))) ** 0.1333


def test_values():
  x, y = noisy(0, 2, 13, 12, 3), noisy(1, 2, 13, 12, 3)
  np.testing.assert_array_equal(ssim_loss(x, y), 1 - ssim(x, y))
  x, y = noisy(0, 4, 176, 176, 1), noisy(0, 4, 176, 176, 1, noise=0.3)
  np.testing.assert_array_equal(ms_ssim_loss(x, y), 1 - ms_ssim(x, y))
  expected = [1 - ms_ssim64(*(z[..., 0].astype(np.float64) for z in pair)) for pair in zip(x, y, strict=True)]
  np.testing.assert_allclose(ms_ssim_loss(x, y), expected, atol=2e-6)


@pytest.mark.parametrize("mean, noise", [(0.5, 0.2), (0.9, 0.003)])
def test_gradient_of_ssim_against_finite_differences(mean, noise):
  x, y, direction = (noisy(s, 16, 15, mean=mean, noise=noise).astype(np.float64) for s in range(3))
  direction -= mean
  forward, backward = ssim64(x + 1e-3 * direction, y), ssim64(x - 1e-3 * direction, y)
  gradient, _ = SSIM_GRADIENTS(*(np.float32(z)[None, ..., None] for z in (x, y)))
  slope = np.sum(np.asarray(gradient)[0, ..., 0].astype(np.float64) * direction)
  np.testing.assert_allclose(slope, -(forward - backward) / 2e-3, rtol=1e-3)
  # Several channels have their mean, and each image its own.
  pair = [
    np.float32(np.stack([np.stack([a, b, a], -1), np.stack([b, b, a], -1)])) for a, b in ((x, y), (y, x))
  ]
  gradient, _ = SSIM_GRADIENTS(*pair)
  slope = np.sum(np.asarray(gradient)[0, ..., 0].astype(np.float64) * direction)
  np.testing.assert_allclose(3 * slope, -(forward - backward) / 2e-3, rtol=1e-3)


def test_gradient_of_ms_ssim_against_finite_differences():
  x, direction = noisy(0, 176, 176), noisy(2, 176, 176, mean=0.0)
  y = x + noisy(1, 176, 176, mean=0.0)
  gradient, _ = MS_SSIM_GRADIENTS(*(np.stack([z] * 4)[..., None] for z in (x, y)))
  slope = np.sum(np.asarray(gradient)[2, ..., 0].astype(np.float64) * direction)
  x, y, direction = (z.astype(np.float64) for z in (x, y, direction))
  expected = (ms_ssim64(x + 1e-4 * direction, y) - ms_ssim64(x - 1e-4 * direction, y)) / 2e-4
  np.testing.assert_allclose(slope, -expected, rtol=1e-3)


def extremes(h, w):
  """Pairs [4, h, w, 1]: equal images, equal constants, black on white, an image and its negative."""
  image, flat = noisy(0, h, w, 1), np.full((h, w, 1), 0.9, np.float32)
  return np.stack([image, flat, 0 * flat, image]), np.stack([image, flat, 0 * flat + 1, 1 - image])


@pytest.mark.parametrize("by, size", [(SSIM_GRADIENTS, (16, 16)), (MS_SSIM_GRADIENTS, (176, 176))])
def test_gradients_at_extremes(by, size):
  for gradient in by(*extremes(*size)):
    assert gradient.dtype == jnp.float32 and jnp.isfinite(gradient).all()
    np.testing.assert_allclose(gradient[:2], 0.0, atol=1e-7)  # a gradient of `noisy` is 1e-3 and more
    assert (jnp.abs(gradient[2]) > 0).any()  # black moves towards white
    assert (gradient[3] == 0).all() == (by is MS_SSIM_GRADIENTS)  # negative terms are cut off


def test_descent_reaches_the_target():
  target = noisy(0, 16, 16, 1)
  gradient = jax.grad(lambda p: ssim_loss(p, target))
  start = jnp.full((16, 16, 1), 0.5)
  end = jax.jit(lambda p: jax.lax.fori_loop(0, 300, lambda _, p: p - 20.0 * gradient(p), p))(start)
  assert ssim_loss(end, target) < 0.2 * ssim_loss(start, target)  # corners are in one window, and slow


def test_second_derivatives_forward_over_reverse():
  x, y, direction = (noisy(s, 12, 12, 1) for s in range(3))
  gradient = jax.jit(jax.grad(lambda p: ssim_loss(p, y)))
  _, product = jax.jit(lambda p: jax.jvp(gradient, (p,), (direction,)))(x)
  expected = (gradient(x + 0.01 * direction) - gradient(x - 0.01 * direction)) / 0.02
  np.testing.assert_allclose(product, expected, atol=0.02 * jnp.abs(expected).max())


def variation64(image, kind):
  image = image.astype(np.float64)
  down, across = np.zeros_like(image), np.zeros_like(image)
  down[..., :-1, :, :] = image[..., 1:, :, :] - image[..., :-1, :, :]
  across[..., :-1, :] = image[..., 1:, :] - image[..., :-1, :]
  local = np.hypot(down, across) if kind == "isotropic" else abs(down) + abs(across)
  return local.sum((-3, -2, -1))


@pytest.mark.parametrize("kind", ["isotropic", "anisotropic"])
def test_total_variation(kind):
  image = noisy(0, 2, 3, 7, 5, 2)
  loss = jax.jit(total_variation, static_argnames="kind")
  np.testing.assert_allclose(loss(image, kind), variation64(image, kind), rtol=1e-5)
  # An edge of height 0.5 and length 7 in each of two channels; one pixel has no neighbours.
  edge = np.where(np.arange(5) < 2, 0.25, 0.75).astype(np.float32).reshape(1, 5, 1) * np.ones(
    (7, 1, 2), np.float32
  )
  np.testing.assert_allclose(loss(edge, kind), 7.0, rtol=1e-6)
  np.testing.assert_array_equal(loss(edge[:1, :1], kind), 0.0)
  half = loss(jnp.asarray(edge, jnp.bfloat16), kind)
  assert half.dtype == jnp.float32 and half == 7.0


def test_total_variation_counts_a_corner_by_its_kind():
  corner = np.zeros((4, 4, 1), np.float32)
  corner[:2, :2] = 1.0  # at pixel (1, 1) both differences are -1
  np.testing.assert_allclose(total_variation(corner), 2 + np.sqrt(2), rtol=1e-6)
  np.testing.assert_allclose(total_variation(corner, kind="anisotropic"), 4.0, rtol=1e-6)


@pytest.mark.parametrize("kind", ["isotropic", "anisotropic"])
def test_gradient_of_total_variation_is_finite(kind):
  gradient = jax.jit(jax.grad(lambda x: total_variation(x, kind).sum()))
  np.testing.assert_array_equal(gradient(jnp.full((2, 5, 4, 3), 0.3)), 0.0)
  for tiny in 10.0 ** np.arange(-40.0, 0.0, 0.25):  # squares around the smallest float32
    image = jnp.zeros((3, 3, 1)).at[1, 1].set(tiny)
    assert (jnp.abs(gradient(image)) <= 4.0 + 1e-5).all()
  image, direction = (noisy(s, 6, 5, 2).astype(np.float64) for s in (0, 1))
  slope = np.sum(np.asarray(gradient(np.float32(image)), np.float64) * direction)
  difference = variation64(image + 1e-6 * direction, kind) - variation64(image - 1e-6 * direction, kind)
  np.testing.assert_allclose(slope, difference / 2e-6, rtol=1e-4)
  assert jnp.isnan(total_variation(jnp.zeros((3, 3, 1)).at[1, 1].set(jnp.nan), kind))


def test_bad_input_is_refused():
  with pytest.raises(UserError, match=r"kind 'isotrop' is unknown; did you mean 'isotropic'\?"):
    total_variation(np.zeros((3, 3, 1), np.float32), kind="isotrop")
  with pytest.raises(ValueError, match=r"image of shape \(3, 3\)"):
    total_variation(np.zeros((3, 3), np.float32))
  for loss in (ssim_loss, ms_ssim_loss):
    with pytest.raises(ValueError, match=r"\(12, 12, 3\) and target of shape \(12, 12, 1\)"):
      loss(np.zeros((12, 12, 3), np.float32), np.zeros((12, 12, 1), np.float32))
