"""PerceptionCLIP: zero-shot under every context, weighed by the context that an image has."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from embedcal.heads import ContextHead, Head
from embedcal.methods._bounds import defaults
from embedcal.methods._prompts import averaged, by_rows, multiplier
from embedcal.methods._text_solver import FromBanks
from embedcal.methods.base import option
from embedcal.types import EmbedcalError, FloatArray, Task


@dataclass(frozen=True, kw_only=True)
class PerceptionCLIP(FromBanks):
    """Trains nothing: zero-shot in two steps, first the context of an image, then its class in it.

    An et al., 2023 (arXiv:2308.01313), read in its abstract and its code. A prompt names a class y
    in a context z; with f(y,z) = s cos(x, nrm(mean of its templates)),
    P(y|x) = sum_z P(z|x) softmax_y f(y,z). P(z|x) is the softmax over z of logsumexp_y f(y,z)/T,
    or, with ``--context alone``, of s cos(x, c_z)/T for prompts that name the context and no class.
    ``--context average`` is the one-step form: the rows of a class are averaged over contexts.

    Contexts are the attribute's values: the cache's bank ``group`` has a prompt for each class and
    value, ``context`` one for each value. The code's T is swept without a rule; 1 is ours. At T = 1
    the first form is the joint marginal, softmax_y logsumexp_z f(y,z).
    """

    name = "perceptionclip"

    context: str = option(
        "with-class",
        "how contexts are weighed: inferred beside classes, inferred alone, or averaged",
        choices=("with-class", "alone", "average"),
    )
    temperature: float = option(
        1.0, "T: above 1 contexts are weighed more evenly", grid=(0.5, 0.8, 1.0, 3.0, 5.0, 10.0)
    )
    templates: int = option(0, "use only the first so many templates; 0: all")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature <= 0:
            raise EmbedcalError(
                f"expected a positive --temperature, found {self.temperature}: "
                f"{defaults(self, 'temperature')}"
            )

    @property
    def head_name(self) -> str:
        return "linear" if self.context == "average" else "context"

    @property
    def banks(self) -> tuple[str, ...]:
        return ("group", "context") if self.context == "alone" else ("group",)

    def solve(self, task: Task, seed: int) -> Head:
        rows = self._rows(task)  # (C, Z, d)
        if self.context == "average":
            return by_rows(rows.mean(1), task, task.bank("group").prompts[:: rows.shape[1]])
        state = {"text": torch.tensor(rows).float(), "logit_scale": multiplier(task).log()}
        if self.context == "alone":
            contexts = averaged(task.bank("context"))[: rows.shape[1]]
            if len(contexts) < rows.shape[1]:
                raise EmbedcalError(
                    f"expected {rows.shape[1]} context prompts for perceptionclip, one for each "
                    f"value in the group prompts, found {len(contexts)}: give one for each"
                )
            state["contexts"] = torch.tensor(contexts).float()
        return ContextHead(state, infer=self.context, temperature=self.temperature)

    def _rows(self, task: Task) -> FloatArray:
        """Unit rows (C, Z, d) of the group prompts, which come class by class."""
        rows = averaged(task.bank("group"))
        if len(rows) % task.n_classes:
            raise EmbedcalError(
                f"expected as many group prompts for each of {task.n_classes} classes for "
                f"perceptionclip, found {len(rows)} in all: give one for each class and value"
            )
        found: FloatArray = rows.reshape(task.n_classes, -1, rows.shape[1])
        return found
