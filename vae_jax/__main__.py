"""The console command `vae-jax`, also `python -m vae_jax`."""

import signal


def main() -> None:
  """Runs the command that the words of the command line name; ends the process with its status."""
  if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `cli.run`, Ctrl-C ends this without a traceback
  from vae_jax.cli import main, run

  run(main.main)


if __name__ == "__main__":
  main()
