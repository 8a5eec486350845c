"""PURE. Merges the metrics pages of several processes into one, and adds what their supervisor counts."""

from collections.abc import Iterable, Mapping

from streams.prometheus import catalogue
from streams.prometheus.text_format import NO_LABELS, Labels, labels, simple


def merged(pages: Mapping[str, str]) -> str:
    """Merge pages in Prometheus's text format, by process; each sample gets the label `process`.

    The samples of one metric stand together, as the format requires, below the first page's help and type.
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


def exits_page(exits: int) -> str:
    """What a supervisor adds to the page of a process: how often the process has ended by itself."""
    part = simple(catalogue.PROCESS_EXITS, [(NO_LABELS, exits)])
    return part.head + part.lines


def _labelled(sample: str, label: Labels) -> str:
    """A sample with one more label; metric names have neither braces nor spaces."""
    name, space, value = sample.partition(" ")
    own, brace, labels = sample.partition("{")
    return (
        f"{own}{{{label},{labels}" if brace and len(own) < len(name) else f"{name}{{{label}}}{space}{value}"
    )


def _lines(heads: Mapping[str, list[str]], samples: Mapping[str, list[str]]) -> Iterable[str]:
    for name, head in heads.items():
        yield from head
        yield from samples[name]
