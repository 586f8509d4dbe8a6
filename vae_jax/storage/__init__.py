"""What lies on disk: whole files, checkpoints, exported models, weight files of others."""
