"""Event files of TensorBoard: scalars, pictures, hyperparameters."""

from __future__ import annotations

import io
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vae_jax.storage.files import append_whole


class Events:
  """Appends to an event file of TensorBoard; each event is on its way to the disk when the call returns.

  The writer of tensorboardX is not used: its thread dies on a full disk, after which its queue stops the run for ever.
  """

  def __init__(self, folder: str | Path, resume_step: int = 0):
    """`resume_step`: what earlier files hold of later steps is hidden by TensorBoard. Raises OSError."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    now = time.time()
    self._file = io.FileIO(folder / f"events.out.tfevents.{int(now)}.{socket.gethostname()}", "a")
    self._add(Event(wall_time=now, file_version="brain.Event:2"))
    if resume_step:
      start = SessionLog(status=SessionLog.START)
      self._add(Event(wall_time=now, step=resume_step + 1, session_log=start))

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Numbers by name. Raises OSError, and then leaves the file as it was."""
    from tensorboardX.proto.summary_pb2 import Summary

    self._summary(step, [Summary.Value(tag=name, simple_value=value) for name, value in values.items()])

  def image(self, step: int, name: str, shape: tuple[int, ...], png: bytes) -> None:
    """A PNG file of an image of `shape` [h, w, c]. Raises OSError, and then leaves the file as it was."""
    from tensorboardX.proto.summary_pb2 import Summary

    height, width, channels = shape
    picture = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=png)
    self._summary(step, [Summary.Value(tag=name, image=picture)])

  def hyperparameters(self, values: Mapping[str, Any], metrics: Sequence[str]) -> None:
    """What TensorBoard's HPARAMS tab compares runs by: values by name, and tags of scalars. Raises OSError."""
    from tensorboardX.summary import hparams

    plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in values.items()}
    experiment, start, _ = hparams(plain, dict.fromkeys(metrics, 0.0))
    self._summary(0, [*experiment.value, *start.value])

  def close(self) -> None:
    self._file.close()

  def _summary(self, step: int, values: list[Any]) -> None:
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary

    self._add(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

  def _add(self, event: Any) -> None:
    """A record of a TFRecord file: length, its checksum, data, its checksum."""
    from tensorboardX.record_writer import masked_crc32c

    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    sums = [struct.pack("<I", masked_crc32c(part)) for part in (length, data)]
    append_whole(self._file, length + sums[0] + data + sums[1])
