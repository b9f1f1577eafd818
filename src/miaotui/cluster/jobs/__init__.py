"""Jobs in a cluster: encoders' texts and speech models' windows, their replicas and their pools."""
