"""Writing models: canonical values back into the tensors of files that this model was read from."""
