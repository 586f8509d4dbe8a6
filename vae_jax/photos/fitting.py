"""Which pretrained model fits a photograph: what each was made for, as data, and the choice.

`MODELS` is the one place that says it. A model that is not in the folder pretrained/ is never chosen, only named.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # the command line is answered before NumPy is imported
  from vae_jax.photos.condition import Condition

AUTO = "auto"  # in place of a model's name

# From where on a person is told of it, and a model for clean photographs does not fit.
GOOD_QUALITY = 90  # JPEG
NOISY = 3.0  # standard deviation in grey levels


class Purpose(NamedTuple):
  """What a model was made for.

  what: for a person. factor: enlargement. channels: of photographs. quality: least and most of JPEG; 100 is also no
  JPEG. noise: least and most, in grey levels. sharpened: whether halos do no harm. automatic: whether it may be chosen
  unasked.
  """

  what: str
  factor: int = 1
  channels: tuple[int, ...] = (1, 3)
  quality: tuple[int, int] = (GOOD_QUALITY, 100)
  noise: tuple[float, float] = (0, NOISY)
  sharpened: bool = True
  automatic: bool = True

  def fits(self, condition: Condition, channels: int) -> bool:
    """Whether it was made for photographs of this condition and number of channels."""
    quality = 100 if condition.jpeg_quality is None else condition.jpeg_quality
    return (
      channels in self.channels
      and self.quality[0] <= quality <= self.quality[1]
      and self.noise[0] <= condition.noise < self.noise[1]
      and (self.sharpened or not condition.sharpened)
    )


# Those that fit are tried from the top.
MODELS = {
  "denoise_grey": Purpose("noise of up to 75 grey levels", channels=(1,), noise=(0, 90)),
  "denoise_color": Purpose("noise of up to 75 grey levels", channels=(3,), noise=(0, 90)),
  "dejpeg": Purpose("JPEG of quality 8 to 90", quality=(8, GOOD_QUALITY - 1)),
  # Its noise is rarely seen in a photograph: it is no reason for a warning.
  "denoise_real": Purpose("camera noise, also after JPEG", quality=(30, 100), noise=(0, 40)),
  "superres_x2": Purpose("clean photographs", 2, sharpened=False),
  "superres_x2_real": Purpose("JPEG, noise and sharpened photographs", 2, quality=(20, 100), noise=(0, 15)),
  "superres_x4": Purpose("clean photographs", 4, sharpened=False),
  "superres_x4_real": Purpose("JPEG, noise and sharpened photographs", 4, quality=(20, 100), noise=(0, 15)),
  "superres_x4_perceptual": Purpose("clean photographs", 4, sharpened=False, automatic=False),
}
SCALES = tuple(sorted({purpose.factor for purpose in MODELS.values()}))


class Choice(NamedTuple):
  """model: its name; None: the photograph is best left as it is. why: for a person. condition: what was seen."""

  model: str | None
  why: str
  condition: Condition


def choose(condition: Condition, channels: int, scale: int, there: Collection[str]) -> Choice:
  """The model for a photograph of this condition. Pure.

  channels: of the photograph. scale: 1 cleans it, where it needs it; 2 and 4 enlarge. there: the models that exist.
  """
  seen = ", ".join(condition.remarks())
  if scale == 1 and not (condition.noisy or condition.compressed):
    return Choice(None, f"{seen + '; ' if seen else ''}neither noise nor JPEG blocks to remove", condition)
  made = [name for name, purpose in MODELS.items() if purpose.factor == scale and purpose.automatic]
  fitting = [name for name in made if MODELS[name].fits(condition, channels)]
  if chosen := next((name for name in fitting if name in there), None):
    return Choice(chosen, seen or "clean", condition)
  lacking = f"{fitting[0]} would fit and is not installed" if fitting else "no model was made for this"
  if scale == 1:
    return Choice(None, f"{seen}; {lacking}", condition)
  chosen = next((name for name in made if name in there and channels in MODELS[name].channels), None)
  if chosen is None:
    return Choice(None, f"{seen or 'clean'}; no model enlarges by {scale}", condition)
  return Choice(chosen, f"{seen}; {chosen} was made for {MODELS[chosen].what}; {lacking}", condition)


def warning(name: str, condition: Condition, channels: int, there: Collection[str]) -> str:
  """What to say before a photograph goes through the model `name`: what was seen, and whether the model fits; or ""."""
  seen = ", ".join(condition.remarks())
  purpose = MODELS.get(name)
  # A model of grey takes a colour photograph channel by channel, and one of colours takes grey.
  if purpose is None or purpose.fits(condition, purpose.channels[0]):
    return seen
  better = choose(condition, channels, purpose.factor, there)
  if better.model is not None and better.model != name and MODELS[better.model].fits(condition, channels):
    advice = f"--pretrained {better.model} fits better"
  elif better.model is None and not (condition.noisy or condition.compressed):
    advice = "this photograph is better left as it is"
  else:
    advice = "no model here fits better; compare the result with the input"
  return f"{seen or 'clean'}; warning: {name} was made for {purpose.what}; {advice}"
