"""One model over several processes and machines: routing by promise, resumption of answers, Ray Serve."""
