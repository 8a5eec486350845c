"""From a version's inputs to its model and back: the port `Backend`, ONNX in process, and three protocols of model servers.

Who makes batches and bounds calls is `workers.calls`.
"""
