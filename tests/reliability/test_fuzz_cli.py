"""Any words on the command line: a request, help, or one line.

1,000 cases, of the 3,106 of the three files test_fuzz_*.py; ten times as many with -m slow.
"""

import argparse
import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vae_jax import cli
from vae_jax.configuration import apply_overrides, base_config, every_key, to_json
from vae_jax.errors import UserError

ROOT = Path(__file__).parents[2]
TIMES = [1, pytest.param(10, marks=pytest.mark.slow)]
BASE = "from vae_jax.configuration import base_config\ndef get_config():\n  config = base_config()\n"


def profile(cases):
  quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
  return settings(
    max_examples=cases, derandomize=True, database=None, deadline=None, suppress_health_check=quiet
  )


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
  """A folder with configs, runs, photographs, and what looks like them."""
  monkeypatch.chdir(tmp_path)
  files = {
    "configs/tiny.py": BASE + "  config.training.steps = 7\n  return config\n",
    "configs/typo.py": BASE + "  config.trainning.steps = 7\n  return config\n",
    "configs/bytes.py": "\udcff\0",
    "configs/data.txt": "",
    "runs/a/config.json": to_json(apply_overrides(base_config(), ["evaluation.samples=9"])),
    "runs/b/config.json": "{",
    "runs/c/config.json/x": "",
    "runs/d/model.safetensors": "",
    "photos/a.png": "",
    "notes": "",
  }
  for name, text in files.items():
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(text.encode(errors="surrogateescape"))
  (tmp_path / "loop").symlink_to("loop")


PATHS = [
  *(
    "configs/tiny.py",
    "configs/typo.py",
    "configs/bytes.py",
    "configs/data.txt",
    "configs",
    "runs/a",
    "runs/b",
    "runs/c",
  ),
  *(
    "runs/d",
    "photos",
    "photos/a.png",
    "notes",
    "notes/x",
    "loop",
    "loop/x",
    ".",
    "..",
    "/",
    "/dev/null",
    "nowhere",
  ),
  *(
    "out.v2",
    "out.png",
    "out.JPG",
    "out.json",
    "é/ü.png",
    "new\nline",
    "\udc80.png",
    "\ud800",
    "nul\0",
    "x" * 300,
    "x/" * 3000,
  ),
  "\x1b[31mred",
]
WORDS = [
  *(
    "",
    " ",
    "-",
    "--",
    "---",
    "-1",
    "1",
    "0",
    "3",
    "2147483647",
    "2147483648",
    "1e999",
    "nan",
    "inf",
    "-inf",
    "1.5",
    "9" * 5000,
  ),
  *(
    "newest",
    "best",
    "test",
    "train[:10]",
    "linear",
    "spherical",
    "vgg16",
    "alexnet",
    "superres_x2",
    "true",
    "64,64",
    "=",
    "@x",
  ),
  *("gaussian", "mixture"),
  *("%s", "%(prog)s", "a=b", "\u2028", "٣", "²", "x" * 10_000),
]
VALUES = (
  st.sampled_from(PATHS)
  | st.sampled_from(WORDS)
  | st.sampled_from(sorted(cli.MODES))
  | st.text(max_size=8)
  | st.text(alphabet=st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF), max_size=3)
)


def flagged(flags):
  """A flag with its value, after a space or a '=', or without one."""

  def words(pair):
    flag, value, way = pair
    return {"=": [f"{flag}={value}"], " ": [flag, value], "": [flag]}[way]

  return st.tuples(st.sampled_from(flags), VALUES, st.sampled_from(["=", " ", " ", ""])).map(words)


def damaged(flags):
  """Flags with a letter too few, too many or another."""
  places, letters = st.integers(0, 40), st.sampled_from("-_.ae\n\0= ")
  return st.tuples(st.sampled_from(flags), places, letters, st.booleans()).map(
    lambda p: [p[0][: p[1]] + p[2] * p[3] + p[0][p[1] + 1 :]]
  )


def commands(flags, likely=()):
  """Lists of words: mostly flags with values, some noise."""
  word = flagged(flags) | flagged(flags) | damaged(flags) | VALUES.map(lambda value: [value])
  start = st.sampled_from([[], *likely]) if likely else st.just([])
  parts = st.tuples(start, st.lists(word, max_size=5))
  return parts.map(lambda p: [*p[0], *(item for part in p[1] for item in part)])


def answer(parse, argv):
  """ "request", "help" or "line"; anything else fails."""
  out, err = io.StringIO(), io.StringIO()
  try:
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
      args = parse(argv)
  except SystemExit as end:
    assert (
      end.code == 0 and {"-h", "--help"} & set(argv) and "usage:" in out.getvalue() and err.getvalue() == ""
    )
    assert out.getvalue().replace("\n", "").isprintable()
    return "help"
  except UserError as error:
    line = cli.one_line(error)
    assert line and line.isprintable() and out.getvalue() == err.getvalue() == ""
    assert len(line) < 300 + sum(map(len, argv)) + 400  # no dump of all there is
    return "line"
  assert isinstance(args, argparse.Namespace) and args.config.is_locked
  assert out.getvalue() == err.getvalue() == ""
  return "request"


TRAIN = ["--config", "--workdir", "--coordinator", "--processes", "--process", "--help", "-h"]
KEYED = [f"--config.{key}" for key in every_key()]


@pytest.mark.parametrize("times", TIMES)
def test_train(times):
  seen = set()
  likely = [
    ["--config", "configs/tiny.py"],
    ["--config=configs/tiny.py", "--help"],
    ["--config=configs/typo.py"],
  ]

  @profile(500 * times)
  @given(commands(TRAIN, likely) | commands([*TRAIN, *KEYED], likely) | commands(KEYED, likely))
  def check(argv):
    seen.add(answer(cli.parse_train, argv))

  check()
  assert seen == {"request", "help", "line"}


EVALUATE = [
  *(
    "--workdir",
    "--pretrained",
    "--mode",
    "--input",
    "--output",
    "--num",
    "--samples",
    "--seed",
    "--split",
    "--batch_size",
  ),
  *(
    "--checkpoint",
    "--data_dir",
    "--temperature",
    "--prior",
    "--components",
    "--method",
    "--tile",
    "--ensemble",
    "--lpips",
    "--help",
    "-h",
  ),
]


@pytest.mark.parametrize("times", TIMES)
def test_evaluate(times):
  seen = set()
  run = ["--workdir", "runs/a"]
  likely = [run, ["--help"], *([*run, f"--mode={mode}"] for mode in cli.MODES)]
  likely += [
    [*run, f"--mode={mode}", "--input", "photos"] for mode in ("restore", "benchmark", "reconstruct")
  ]
  likely += [["--pretrained", "superres_x2", "--mode", "restore", "--input", "photos/a.png"]]

  @profile(500 * times)
  @given(commands(EVALUATE, likely))
  def check(argv):
    seen.add(answer(cli.parse_evaluate, argv))

  check()
  assert seen == {"request", "help", "line"}


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (
      ["--config", "configs/typo.py"],
      "configs/typo.py:4: there is no config key 'trainning' here; did you mean 'training'",
    ),
    (["--config", "x" * 300], "(File name too long)"),
    (["--workdir", ""], "argument --workdir: '' is no name of a file or folder"),
    (["--workdir", "a\0b"], r"argument --workdir: 'a\x00b' is no name of a file or folder"),
    (["--workdir", "notes\n/x"], r"--workdir 'notes\n/x' cannot be made: 'notes\n' is a file"),
    (["--processes", "9" * 5000], "9...' must be an integer >= 1 and <= 2147483647"),
    (["--config.data.dir=a\0b"], r"data.dir='a\x00b' must be text without NUL"),
    (["--config.model.hidden=((1,2),3)"], "model.hidden='((1,2),3)' must be integers"),
  ],
)
def test_lines_of_train(argv, message, tmp_path):
  (tmp_path / "notes\n").write_text("")
  with pytest.raises(UserError) as caught:
    cli.parse_train(argv)
  assert message in cli.one_line(caught.value)


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (["--workdir", "runs/a", "--checkpoint", "9" * 5000], "9...' must be newest, best or a step"),
    (
      ["--workdir", "runs/a", "--mode", "sample", "--num", "65537"],
      "'65537' must be an integer >= 1 and <= 65536",
    ),
    (
      ["--workdir", "runs/a", "--mode", "restore", "--input", "photos", "--output", ""],
      "argument --output: ''",
    ),
    (["--workdir", "runs/a", "--mode", "restore", "--input", ""], "argument --input: ''"),
    (["--workdir", "runs/a", "--mode", "restore", "--input", "a\nb"], r"--input 'a\nb' does not exist"),
    (["--pretrained", "\x1b[31m"], r"--pretrained '\x1b[31m' is unknown"),
    (["--workdir", "runs/c"], "runs/c is not a run"),
  ],
)
def test_lines_of_evaluate(argv, message):
  with pytest.raises(UserError) as caught:
    cli.parse_evaluate(argv)
  assert message in cli.one_line(caught.value)


def test_a_config_that_cannot_be_read_is_one_line(tmp_path):
  """A file that is there and whose bytes the system refuses to give."""
  (tmp_path / "runs" / "e").mkdir()
  (tmp_path / "runs" / "e" / "config.json").symlink_to("/proc/self/mem")
  with pytest.raises(UserError, match=r"runs/e/config\.json: cannot be read \(Input/output error\)"):
    cli.parse_evaluate(["--workdir", "runs/e"])


@pytest.mark.parametrize(
  ("output", "parsed"),
  [
    ("out.v2", "out.v2/"),
    ("out.v2/", "out.v2/"),
    ("out.2026-01-01", "out.2026-01-01/"),
    ("out", "out"),
    ("out.png", "out.png"),
    ("out.gif", "out.gif"),
    ("out.jpgg", "out.jpgg"),
    ("a.v2/out.jpg", "a.v2/out.jpg"),
  ],
)
def test_a_folder_with_a_dot_in_its_name(output, parsed):
  """One photograph into the folder out.v2: what ends like no image format is a folder's name."""
  argv = ["--workdir", "runs/a", "--mode", "restore", "--input", "photos/a.png", "--output", output]
  assert cli.parse_evaluate(argv).output == parsed


def test_a_process_spells_out_what_a_terminal_would_obey():
  """In a real process, bytes that are no text and an escape sequence: one line of printable ASCII or text, status 2."""
  code = "from vae_jax import cli; cli.run(cli.parse_train)"
  environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
  run = [sys.executable, "-c", code]
  done = subprocess.run([*run, "--workdir", b"notes/\xff\x1b[31m"], capture_output=True, env=environment)
  assert done.returncode == 2 and done.stdout == b"" and done.stderr.count(b"\n") == 1
  assert done.stderr.isascii() and b"\x1b" not in done.stderr and rb"\x1b[31m" in done.stderr
  done = subprocess.run(
    [*run, "--config.data.dir", b"\xff\xc3\xa9", "--help"], capture_output=True, env=environment
  )
  assert (done.returncode, done.stderr) == (0, b"") and rb"--config.data.dir='\udcff" in done.stdout
