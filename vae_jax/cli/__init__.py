"""The command line: flags -> a checked config or request; errors -> one line on standard error and status 2.

    main.py      `vae-jax COMMAND ...`
    train.py     `vae-jax train`, which is train.py of the checkout
    evaluate.py  `vae-jax evaluate`, which is evaluate.py; and a command for each mode: `vae-jax sample`, ...
    flags.py     what they share: the parser, types of values, suggestions
    process.py   a command as a process: its errors, its exit status

Light at import: JAX is not needed to print help or to refuse a flag.
"""

from vae_jax.cli.evaluate import parse_evaluate
from vae_jax.cli.process import one_line, run
from vae_jax.cli.train import parse_train
from vae_jax.commands import MODES

__all__ = ["MODES", "one_line", "parse_evaluate", "parse_train", "run"]
