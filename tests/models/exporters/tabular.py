"""`python tabular.py FOLDER`: train and convert models of scikit-learn, LightGBM, XGBoost and CatBoost.

It runs in the environment of `requirements/tabular.txt`. Converters are called as their pages show first.
"""

import sys
from pathlib import Path
from typing import Any

import catboost
import lightgbm
import numpy as np
import onnxmltools
import pandas as pd
import xgboost
from cases import write_case
from onnxmltools.convert.common import data_types
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.ensemble import IsolationForest, RandomForestRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

FEATURES, CLASSES = load_iris(return_X_y=True)
FEATURES = FEATURES.astype(np.float32)
WIDTH = FEATURES[:, 3]
# Away from the thresholds of trees, which converters round to 32 bits.
ASKED = FEATURES[::15] + np.float32(0.0123)
HOLES = ASKED.copy()
HOLES[::2, 2] = np.nan
HOLES[1::3, 0] = np.nan
FEATURES_WITH_HOLES = FEATURES.copy()
FEATURES_WITH_HOLES[::7, 2] = np.nan
FEATURES_WITH_HOLES[::5, 0] = np.nan
NAMES = np.array(["setosa", "versicolor", "virginica"])


def main(folder: Path) -> None:
    scikit_learn(folder)
    light_gbm(folder)
    xg_boost(folder)
    cat_boost(folder)


def scikit_learn(folder: Path) -> None:
    classifier = LogisticRegression(max_iter=1000).fit(FEATURES, CLASSES)
    _classifier(folder, "sklearn-classifier", to_onnx(classifier, FEATURES[:1]), classifier, ASKED)
    named = LogisticRegression(max_iter=1000).fit(FEATURES, NAMES[CLASSES])
    _classifier(folder, "sklearn-string-labels", to_onnx(named, FEATURES[:1]), named, ASKED)
    without_zipmap = to_onnx(classifier, FEATURES[:1], options={"zipmap": False})
    write_case(
        folder,
        "sklearn-without-zipmap",
        without_zipmap.SerializeToString(),
        [{"X": row} for row in ASKED],
        list(classifier.predict_proba(ASKED)),
        outputs={"probabilities": "probabilities"},
    )
    regressor = RandomForestRegressor(20, random_state=0).fit(FEATURES[:, :3], WIDTH)
    _regressor(folder, "sklearn-regressor", to_onnx(regressor, FEATURES[:1, :3]), regressor, ASKED[:, :3])
    doubles = FEATURES.astype(np.float64)
    linear = LinearRegression().fit(doubles[:, :3], WIDTH)
    asked = ASKED[:, :3].astype(np.float64)
    _regressor(folder, "sklearn-float64", to_onnx(linear, doubles[:1, :3]), linear, asked)
    outliers = IsolationForest(n_estimators=20, random_state=0).fit(FEATURES)
    write_case(
        folder,
        "sklearn-outliers",
        to_onnx(outliers, FEATURES[:1], target_opset={"": 18, "ai.onnx.ml": 3}).SerializeToString(),
        [{"X": row} for row in ASKED],
        [
            {"label": [label], "scores": [score]}
            for label, score in zip(outliers.predict(ASKED), outliers.decision_function(ASKED), strict=True)
        ],
    )
    _pipeline_of_columns(folder)
    _pipeline_of_text(folder)


def _pipeline_of_columns(folder: Path) -> None:
    """Strings and numbers with missing values, each column an input."""
    table = pd.DataFrame(
        {
            "city": np.resize(["Bonn", "Ulm", "Jena", "Köln"], len(WIDTH)),
            "age": np.where(np.arange(len(WIDTH)) % 9 == 0, np.nan, WIDTH * 30).astype(np.float32),
            "income": FEATURES[:, 0] * 1000,
        }
    )
    target = np.where(FEATURES[:, 2] > 3.8, "gone", "stays")
    pipeline = make_pipeline(
        ColumnTransformer(
            [
                ("words", OneHotEncoder(handle_unknown="ignore"), ["city"]),
                ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["age", "income"]),
            ]
        ),
        LogisticRegression(),
    ).fit(table, target)
    one = [None, 1]
    initial_types = [
        ("city", StringTensorType(one)),
        ("age", FloatTensorType(one)),
        ("income", FloatTensorType(one)),
    ]
    asked = table.iloc[::11].copy()
    asked.loc[asked.index[0], "city"] = "nowhere"
    write_case(
        folder,
        "sklearn-pipeline-of-columns",
        to_onnx(pipeline, initial_types=initial_types).SerializeToString(),
        [{name: [value] for name, value in row.items()} for row in asked.to_dict("records")],
        _labels_and_maps(pipeline, asked),
    )


def _pipeline_of_text(folder: Path) -> None:
    texts = np.array(["win money now", "free money offer", "meeting at noon", "see you at lunch"] * 5)
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(
        texts, ["spam", "spam", "ham", "ham"] * 5
    )
    asked = np.array(["money for lunch", "you win", "noon"])
    # Without it the model needs the locale en_US.UTF-8, which small images lack.
    options = {TfidfVectorizer: {"locale": "C"}}
    model = to_onnx(pipeline, initial_types=[("text", StringTensorType([None, 1]))], options=options)
    write_case(
        folder,
        "sklearn-pipeline-of-text",
        model.SerializeToString(),
        [{"text": [text]} for text in asked],
        _labels_and_maps(pipeline, asked),
    )


def light_gbm(folder: Path) -> None:
    types = [("X", data_types.FloatTensorType([None, 4]))]
    few = {"n_estimators": 20, "verbose": -1}
    classifier = lightgbm.LGBMClassifier(**few).fit(FEATURES_WITH_HOLES, CLASSES)
    # The label of both is declared as [1].
    for name, options in (("lightgbm-classifier", {}), ("lightgbm-without-zipmap", {"zipmap": False})):
        model = onnxmltools.convert_lightgbm(classifier, initial_types=types, **options)
        labels, probabilities = classifier.predict(HOLES), classifier.predict_proba(HOLES)
        by_class = [_by_class(classifier.classes_, row) if not options else row for row in probabilities]
        write_case(
            folder,
            name,
            model.SerializeToString(),
            [{"X": row} for row in HOLES],
            [{"label": label, "probabilities": row} for label, row in zip(labels, by_class, strict=True)],
        )
    types = [("X", data_types.FloatTensorType([None, 3]))]
    regressor = lightgbm.LGBMRegressor(**few).fit(FEATURES_WITH_HOLES[:, :3], WIDTH)
    _regressor(
        folder,
        "lightgbm-regressor",
        onnxmltools.convert_lightgbm(regressor, initial_types=types),
        regressor,
        HOLES[:, :3],
    )


def xg_boost(folder: Path) -> None:
    types = [("X", data_types.FloatTensorType([None, 4]))]
    classifier = xgboost.XGBClassifier(n_estimators=20).fit(FEATURES_WITH_HOLES, CLASSES)
    model = onnxmltools.convert_xgboost(classifier, initial_types=types)
    labels, probabilities = classifier.predict(HOLES), classifier.predict_proba(HOLES)
    write_case(
        folder,
        "xgboost-classifier",
        model.SerializeToString(),
        [{"X": row} for row in HOLES],
        [{"label": label, "probabilities": row} for label, row in zip(labels, probabilities, strict=True)],
    )
    types = [("X", data_types.FloatTensorType([None, 3]))]
    regressor = xgboost.XGBRegressor(n_estimators=20).fit(FEATURES_WITH_HOLES[:, :3], WIDTH)
    _regressor(
        folder,
        "xgboost-regressor",
        onnxmltools.convert_xgboost(regressor, initial_types=types),
        regressor,
        HOLES[:, :3],
    )


def cat_boost(folder: Path) -> None:
    few = {"iterations": 20, "verbose": False, "allow_writing_files": False}
    classifier = catboost.CatBoostClassifier(**few).fit(FEATURES, NAMES[CLASSES])
    labels = classifier.predict(ASKED)[:, 0]
    probabilities = [_by_class(classifier.classes_, row) for row in classifier.predict_proba(ASKED)]
    write_case(
        folder,
        "catboost-classifier",
        _saved(folder, classifier),
        [{"features": row} for row in ASKED],
        [{"label": label, "probabilities": row} for label, row in zip(labels, probabilities, strict=True)],
    )
    regressor = catboost.CatBoostRegressor(**few).fit(FEATURES_WITH_HOLES[:, :3], WIDTH)
    write_case(
        folder,
        "catboost-regressor",
        _saved(folder, regressor),
        [{"features": row} for row in HOLES[:, :3]],
        [[number] for number in regressor.predict(HOLES[:, :3])],
    )


def _saved(folder: Path, model: Any) -> bytes:
    path = folder / "catboost.saved"
    model.save_model(str(path), format="onnx")
    content = path.read_bytes()
    path.unlink()
    return content


def _classifier(folder: Path, name: str, model: Any, classifier: Any, asked: Any) -> None:
    inputs = [{"X": row} for row in asked]
    write_case(folder, name, model.SerializeToString(), inputs, _labels_and_maps(classifier, asked))


def _regressor(folder: Path, name: str, model: Any, regressor: Any, asked: Any) -> None:
    predictions = [[number] for number in regressor.predict(asked)]
    write_case(folder, name, model.SerializeToString(), [{"X": row} for row in asked], predictions)


def _labels_and_maps(classifier: Any, asked: Any) -> list[Any]:
    """What scikit-learn predicts, in the form of its converter: a label, and probabilities by class."""
    return [
        {"output_label": label, "output_probability": _by_class(classifier.classes_, row)}
        for label, row in zip(classifier.predict(asked), classifier.predict_proba(asked), strict=True)
    ]


def _by_class(classes: Any, row: Any) -> dict[str, Any]:
    return {str(label): number for label, number in zip(classes, row, strict=True)}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
