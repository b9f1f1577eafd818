"""Encoders beside other engines: speed, accuracy, exports."""
