"""Pins what this version computes, bit for bit, and compares two such pins that were made on one machine.

    python tests/golden/pin.py before.json                 # every case of tests/test_behaviour.py, in every way
    python tests/golden/pin.py --compare before.json after.json

The first pins the checkout that it lies in: the rows of three steps and what the trained models give, and what the
models of pretrained/ give. The second exits with 1 where a number is off by more than 1e-5, or is in one pin alone.
Runs on eight devices may differ in the last bits from one run to the next: pin one version twice to see which do.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
TOLERANCE = 1e-5
LAST_BITS = 1e-9  # stands for arrays that differ where their summaries do not
# Arrays of less than 2**10 elements are not divided by fsdp: these are larger.
WIDE = ["model.hidden=64", "model.channels=16", "model.dense=32", "objective.adversarial.channels=8,16"]
DEFAULT = "jit on 1"  # the way whose trained models are pinned too, and models that come with the project
# Devices and overrides.
WAYS = {
  DEFAULT: (1, []),
  "jit on 8": (8, []),
  "pmap on 8": (8, ["training.parallel=pmap"]),
  "fsdp on 8": (8, ["training.fsdp=true"]),
  "accumulate=2 on 1": (1, ["training.accumulate=2"]),
  "accumulate=2, pmap on 8": (8, ["training.accumulate=2", "training.parallel=pmap"]),
  "stream on 1": (1, ["data.resident_mb=0"]),
}


def exact(value):
  """Floats as hexadecimal text."""
  return float(value).hex() if isinstance(value, float) else value


def digest(behaviour, arrays):
  """For each array the SHA-256 of its float32 bytes, and a summary for what is close to it."""
  found = {}
  for name, array in arrays.items():
    summary = behaviour.summarize(array)
    values = [exact(v) for v in (summary["mean"], summary["std"], *summary["values"])]
    content = np.ascontiguousarray(array, np.float32).tobytes()
    found[name] = {"shape": summary["shape"], "sha256": hashlib.sha256(content).hexdigest(), "values": values}
  return found


def wide(case):
  """The overrides of `WIDE` that the case itself sets."""
  return [word for word in WIDE if word.partition("=")[0] in case]


def pin_way(way):
  """All cases in one way, in this process."""
  sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
  import jax

  count, overrides = WAYS[way]
  jax.config.update("jax_num_cpu_devices", count)
  import test_behaviour as behaviour

  from vae_jax.configuration import validate
  from vae_jax.errors import UserError

  found = {}
  with tempfile.TemporaryDirectory() as folder:
    data = behaviour.write_data(folder)
    for number, (case, words) in enumerate(behaviour.CASES.items()):
      config = behaviour.make_config(case, data, *overrides, *(wide(words) if "fsdp" in way else ()))
      try:
        validate(config)
      except UserError as error:
        print(f"{way}, {case}: refused ({error})", file=sys.stderr)
        continue
      workdir = Path(folder) / str(number)
      behaviour.train(config, workdir)
      rows = [{name: exact(v) for name, v in row.items()} for row in behaviour.read_rows(workdir)]
      found[f"{way}: {case}"] = {"rows": rows}
      if way == DEFAULT:
        found[f"{way}: {case}"]["outputs"] = digest(behaviour, behaviour.see_run(workdir, case))
  if way == DEFAULT:
    for name in behaviour.PRETRAINED:
      found[f"pretrained: {name}"] = {"outputs": digest(behaviour, behaviour.see_pretrained(name))}
  return found


def pin():
  """All ways, each in a process of its own."""
  found = {}
  for way in WAYS:
    with tempfile.TemporaryDirectory() as folder:
      out = Path(folder) / "way.json"
      environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
      subprocess.run([sys.executable, __file__, "--way", way, str(out)], check=True, env=environment)
      found |= json.loads(out.read_text())
  return found


def distance(a, b, least=0.0):
  """How far two pins are from one another, relative to the larger: 0 where they are bit-identical.

  Infinite where names or texts differ. least: numbers below this are compared as if they were as large, such as pixels.
  """
  if isinstance(a, dict) and isinstance(b, dict):
    if a.keys() != b.keys():
      return np.inf
    if "sha256" in a:
      found = max(distance(a[k], b[k], least=1.0) for k in ("shape", "values"))
      return found if a["sha256"] == b["sha256"] else max(found, LAST_BITS)
    return max((distance(a[k], b[k], least) for k in a), default=0)
  if isinstance(a, list) and isinstance(b, list):
    return (
      max((distance(x, y, least) for x, y in zip(a, b, strict=True)), default=0)
      if len(a) == len(b)
      else np.inf
    )
  if a == b:
    return 0
  try:
    x, y = float.fromhex(a), float.fromhex(b)
  except (TypeError, ValueError):
    return np.inf
  return abs(x - y) / max(abs(x), abs(y), least) if np.isfinite([x, y]).all() else np.inf


def compare(before, after):
  """Prints the relation of each case; the number of those that are off."""
  off = 0
  for case in [*before, *(case for case in after if case not in before)]:
    if case not in before or case not in after:
      off += 1
      print(f"MISSING in {'the second' if case in before else 'the first'}  {case}")
      continue
    largest = distance(before[case], after[case])
    off += largest > TOLERANCE
    words = (
      "identical"
      if largest == 0
      else f"within {largest:.0e}"
      if largest <= TOLERANCE
      else f"OFF BY {largest:.1e}"
    )
    print(f"{words:15} {case}")
  print(f"{len(before)} and {len(after)} cases, {off} off by more than {TOLERANCE:g}")
  return off


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--compare", action="store_true", help="compare two pins")
  parser.add_argument("--way", choices=WAYS, help="pin this way alone, in this process")
  parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
  args = parser.parse_args()
  if len(args.files) != (2 if args.compare else 1):
    parser.error("give two files to --compare, else one to write")
  if args.compare:
    before, after = (json.loads(path.read_text()) for path in args.files)
    sys.exit(1 if compare(before, after) else 0)
  found = pin_way(args.way) if args.way else pin()
  args.files[0].write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
  main()
