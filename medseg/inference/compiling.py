"""Networks compiled by torch.compile; one that cannot be compiled runs as it is."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor, nn

from medseg.resources import out_of_memory
from medseg.study import Finding


class Compiler:
    """Compiles each network once, and keeps it: one compiler serves all scans of a run.

    Attributes:
        problem: Why a network could not be compiled, in one line; None if none failed.
        used: Whether a compiled network gave an answer.
    """

    def __init__(self) -> None:
        self.problem: str | None = None
        self.used = False
        self._made: dict[Hashable, _Compiled] = {}

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What came of it, for the record of a scan."""
        found = []
        if self.used:
            found.append(Finding("compiled", "The network was compiled; scores may differ by rounding."))
        if self.problem is not None:
            text = f"A network could not be compiled and ran as it is ({self.problem})."
            found.append(Finding("not-compiled", text))
        return tuple(found)

    def compiled(self, network: nn.Module, key: Hashable) -> Callable[[Tensor], Tensor]:
        """What gives the same as a network, to rounding.

        Args:
            network: In evaluation mode.
            key: The same for networks that give the same, for images of one shape.
        """
        if key not in self._made:
            self._made[key] = _Compiled(network, self)
        return self._made[key]


class _Compiled:
    def __init__(self, network: nn.Module, owner: Compiler) -> None:
        self._plain, self._owner = network, owner
        self._fast: Callable[[Tensor], Tensor] | None = None
        self._is_refused = False

    def __call__(self, image: Tensor) -> Tensor:
        if not self._is_refused:
            try:
                if self._fast is None:
                    self._fast = torch.compile(self._plain, dynamic=False)
                scores = self._fast(image)  # the first time it compiles
            except Exception as error:  # whatever the compiler cannot do; a fault of the network's own comes up again
                if out_of_memory(error):
                    raise
                self._is_refused, self._owner.problem = True, _line(error)
            else:
                self._owner.used = True
                return scores
        answer: Tensor = self._plain(image)
        return answer


def _line(error: Exception) -> str:
    """The first line that says something, of the exception that lies at the bottom."""
    while isinstance(inner := error.__cause__ or getattr(error, "inner_exception", None), Exception):
        error = inner
    lines = (line.strip() for line in str(error).splitlines())
    return f"{type(error).__name__}: {next(filter(None, lines), '')[:200]}".rstrip(": ")
