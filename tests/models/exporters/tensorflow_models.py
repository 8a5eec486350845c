"""`python tensorflow_models.py FOLDER`: train and convert models of Keras and TensorFlow by tf2onnx.

It runs in the environment of `requirements/tensorflow.txt`.
"""

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tf2onnx
from cases import write_case

FEATURES = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
TARGET = (FEATURES.sum(axis=1) > 0).astype(np.float32)
ASKED = FEATURES[::20]


def main(folder: Path) -> None:
    keras.utils.set_random_seed(0)
    classifier = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2, "softmax")]
    )
    classifier.compile("adam", "sparse_categorical_crossentropy")
    classifier.fit(FEATURES, TARGET, epochs=2, verbose=0)
    _write(folder, "keras-classifier", classifier, [None, 4], np.float32)
    _write(folder, "keras-fixed-batch", classifier, [1, 4], np.float32)
    half = keras.Sequential([keras.Input((4,), dtype="float16"), keras.layers.Dense(3, dtype="float16")])
    _write(folder, "keras-float16", half, [None, 4], np.float16)
    embedding = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(50, 4),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(1),
        ]
    )
    tokens = [[1, 2, 3], [4], [5, 6, 7, 8, 9]]
    write_case(
        folder,
        "keras-sequences-of-any-length",
        _converted(embedding, [None, None], np.int32),
        [{"x": each} for each in tokens],
        [embedding(np.array([each], np.int32)).numpy()[0] for each in tokens],
    )


def _write(folder: Path, name: str, model: Any, shape: list[int | None], dtype: Any) -> None:
    asked = ASKED.astype(dtype)
    write_case(
        folder,
        name,
        _converted(model, shape, dtype),
        [{"x": row} for row in asked],
        list(model(asked).numpy()),
    )


def _converted(model: Any, shape: list[int | None], dtype: Any) -> bytes:
    signature = [tf.TensorSpec(shape, dtype, name="x")]
    converted, _ = tf2onnx.convert.from_function(tf.function(model), input_signature=signature, opset=17)
    content: bytes = converted.SerializeToString()
    return content


if __name__ == "__main__":
    main(Path(sys.argv[1]))
