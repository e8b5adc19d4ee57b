"""A model as it is served: manifest, ONNX session, scaling, calibration."""
