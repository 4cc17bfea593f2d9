"""Networks that give every voxel a unit vector saying where in the body it is: tensors in, maps
out. They know neither files nor scans nor models, only torch."""
