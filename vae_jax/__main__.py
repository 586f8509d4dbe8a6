"""`python -m vae_jax COMMAND ...`, which is `vae-jax COMMAND ...`."""

from vae_jax.cli.main import main

if __name__ == "__main__":
  main()
