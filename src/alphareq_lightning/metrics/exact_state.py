"""What every metric here is: its state keeps its digits wherever it is moved, and it draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torchmetrics import Metric

from alphareq_lightning.errors import OptionError


class ExactState(Metric):
    """A metric whose state moves between devices but not between dtypes.

    ``metric.to(torch.float16)``, ``set_dtype`` and the ``half`` of a module around it would leave
    three digits of sums over thousands of samples.
    """

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """Draw one value or a list of them, by default the one computed now; needs matplotlib.

        Args:
            val: What `forward` or `compute` gave, or a list of such values.
            ax: Axes of matplotlib to draw into.

        Returns:
            Figure and axes.

        Raises:
            OptionError: If this metric gives no number.
        """
        value = self.compute() if val is None else val
        values = [value] if isinstance(value, Tensor) else list(value)
        if any(not isinstance(v, Tensor) or v.numel() != 1 for v in values):
            raise OptionError(
                f"{type(self).__name__} gives no number to draw; plot a score, as AlphaReQ"
            )
        return self._plot(value, ax)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Any:
        def moved(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            return result if result.dtype == tensor.dtype else tensor.to(result.device)

        return super()._apply(moved, *args, **kwargs)
