"""Reading untrusted YAML, with limits on its nesting and its aliases."""

from pathlib import Path

import yaml

from vision.files.structured_text import reading

MOST_NODES = 100_000  # with the aliases written out; a file of 1 kB could stand for 10**10


def parse_yaml(text: str, *, where: str | Path) -> object:
    """Parse YAML; every scalar stays text, as a class may be called no, on or 1.

    Raises:
        ValueError: it is none, is nested too deeply, or its aliases expand too far; names `where`.
    """
    with reading(where):
        try:
            return yaml.load(text, Loader=_LimitedLoader)
        except yaml.YAMLError as error:
            raise ValueError(f"{where}: not valid YAML ({' '.join(str(error).split())})") from None


class _LimitedLoader(yaml.BaseLoader):
    """Counts the nodes that each node stands for once its aliases are written out."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._num_nodes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node:
        """Compose a node as yaml does, and count it.

        Raises:
            yaml.composer.ComposerError: it stands for more than MOST_NODES nodes.
        """
        is_alias = self.check_event(yaml.AliasEvent)
        mark = self.peek_event().start_mark
        node = super().compose_node(parent, index)
        if not is_alias:
            children = [] if isinstance(node, yaml.ScalarNode) else node.value
            if isinstance(node, yaml.MappingNode):
                children = [child for pair in children for child in pair]
            self._num_nodes[node] = 1 + sum(self._num_nodes[child] for child in children)
        # One that is not counted yet is inside itself.
        if self._num_nodes.get(node, MOST_NODES + 1) > MOST_NODES:
            problem = f"with its aliases written out it has more than {MOST_NODES} entries"
            raise yaml.composer.ComposerError(None, None, problem, mark)
        return node
