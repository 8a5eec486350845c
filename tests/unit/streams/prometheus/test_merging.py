"""streams/prometheus/merging.py, read back by the library's own parser."""

from prometheus_client.parser import text_string_to_metric_families

from streams.prometheus.merging import merged

ONE = """# HELP a_total What a is.
# TYPE a_total counter
a_total{model="m {x} ,\\"y\\" "} 1.0
a_total{model="n"} 2.0
# HELP b What b is.
# TYPE b gauge
b 3.5
"""
TWO = """# HELP b What b is.
# TYPE b gauge
b 4.5
# HELP c What c is.
# TYPE c histogram
c_bucket{le="+Inf"} 7.0
c_count 7.0
c_sum 1.0
"""


def test_each_sample_says_of_which_process_it_is() -> None:
    families = list(text_string_to_metric_families(merged({"w-1": ONE, "w-2": TWO})))
    assert [family.name for family in families] == ["a", "b", "c"]
    assert [family.documentation for family in families] == ["What a is.", "What b is.", "What c is."]
    found = [(sample.name, sample.labels, sample.value) for family in families for sample in family.samples]
    assert found == [
        ("a_total", {"process": "w-1", "model": 'm {x} ,"y" '}, 1.0),
        ("a_total", {"process": "w-1", "model": "n"}, 2.0),
        ("b", {"process": "w-1"}, 3.5),
        ("b", {"process": "w-2"}, 4.5),
        ("c_bucket", {"process": "w-2", "le": "+Inf"}, 7.0),
        ("c_count", {"process": "w-2"}, 7.0),
        ("c_sum", {"process": "w-2"}, 1.0),
    ]


def test_names_stand_together() -> None:
    lines = merged({"w-1": ONE, "w-2": ONE}).splitlines()
    assert lines.count("# TYPE b gauge") == lines.count("# HELP b What b is.") == 1
    assert [line.partition("{")[0] for line in lines if not line.startswith("#")] == [
        *["a_total"] * 4,
        "b",
        "b",
    ]


def test_a_process_may_have_any_name() -> None:
    name = 'a "b" \\ c'
    (family,) = text_string_to_metric_families(merged({name: "# HELP b B.\n# TYPE b gauge\nb 1.0\n"}))
    assert [sample.labels for sample in family.samples] == [{"process": name}]


def test_nobody_shows_nothing() -> None:
    assert merged({}) == ""
