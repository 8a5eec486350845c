"""PURE. One page of several processes, of which each has one of its own."""

from collections.abc import Iterable, Mapping

from streams.prometheus.text_format import Labels, labels


def merged(pages: Mapping[str, str]) -> str:
    """Pages in Prometheus's text format, by process, with the process as a label of each sample.

    The samples of one name stand together, as the format demands, below the first page's help and type.
    """
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for process, page in pages.items():
        label = labels(process=process)
        name = ""
        for line in page.splitlines():
            if line.startswith("# HELP "):
                name = line.split(" ", 3)[2]
                if name not in heads:
                    heads[name] = [line]
                    samples[name] = []
            elif line.startswith("# TYPE "):
                if len(heads[name]) == 1:
                    heads[name].append(line)
            elif line:
                samples[name].append(_labelled(line, label))
    return "".join(f"{line}\n" for line in _lines(heads, samples))


def _labelled(sample: str, label: Labels) -> str:
    """A sample with one label more; names of metrics have neither braces nor spaces."""
    name, space, value = sample.partition(" ")
    own, brace, labels = sample.partition("{")
    return (
        f"{own}{{{label},{labels}" if brace and len(own) < len(name) else f"{name}{{{label}}}{space}{value}"
    )


def _lines(heads: Mapping[str, list[str]], samples: Mapping[str, list[str]]) -> Iterable[str]:
    for name, head in heads.items():
        yield from head
        yield from samples[name]
