"""A model as it is served: manifest, ONNX session, scaler, calibration; loads no training framework."""
