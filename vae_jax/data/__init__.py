"""Images from disk to the device: sources, batches, degradations."""
