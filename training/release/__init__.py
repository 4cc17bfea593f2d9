"""From a training checkpoint to a model others use: export, mean of models, calibration, fine-
tuning on own scans."""
