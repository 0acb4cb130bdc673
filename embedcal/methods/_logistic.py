"""Many logistic regressions with an L2 penalty over the same rows, solved side by side.

Requirements. One product with the rows serves every problem of a stack; a problem's answer does
not depend on its company beyond the stated tolerance; a finished problem costs nothing more.

Along the principal axes of the centred rows every Hessian is near to a diagonal one, whatever the
penalty: I + c kappa Lambda, with Lambda the eigenvalues of X^T X and kappa a problem's mean of
p (1 - p). So one eigendecomposition preconditions the whole stack, and L-BFGS (Liu and Nocedal,
1989) has only the rest to learn. Scores are linear in the weights: a step along a line costs no
product with the rows.

Letters: n rows, d features, C classes, K problems, R score rows of a problem: 1 for two classes,
as scikit-learn has it, else C. Everything is float64, and lives on the device of the rows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from embedcal.threads import side_by_side

HISTORY = 10  # pairs of steps and gradient changes that L-BFGS remembers
COLUMNS = 32  # score rows of a stack; a matrix product gains little from more
ELEMENTS = 1 << 22  # scores of a stack, 32 MB an array
LEFT_OUT = 8  # problems are taken out of a stack once one in so many is finished
TRIES = 30  # points looked at on one line
ROUNDING = 1e-14  # relative error of a sum over rows that float64 may leave


class Axes(NamedTuple):
    """Rows about their mean along their principal axes, with a column of ones for the intercept."""

    x: Tensor  # (n, d + 1)
    moments: Tensor  # (d + 1,) sums of squares of its columns
    mean: Tensor  # (d,)
    basis: Tensor  # (d, d) orthogonal


def principal_axes(x: Tensor) -> Axes:
    """Turns rows (n, d); an orthogonal turn changes no L2 penalty, nor does the shift of rows."""
    x = x.double()
    mean = x.mean(0)
    centred = x - mean
    moments, basis = torch.linalg.eigh(centred.T @ centred)
    ones = torch.ones_like(x[:, :1])
    return Axes(
        x=torch.cat([centred @ basis, ones], 1),
        moments=torch.cat([moments.clamp(min=0), ones.sum()[None]]),
        mean=mean,
        basis=basis,
    )


class Solution(NamedTuple):
    """Weights of raw rows, one row a class or one row for two; steps taken, and whether enough."""

    weight: Tensor  # (K, R, d)
    bias: Tensor  # (K, R)
    steps: Tensor  # (K,)
    converged: Tensor  # (K,)


class Limits(NamedTuple):
    """When to stop, by problem."""

    tol: Tensor  # (K,)
    steps: Tensor  # (K,)


def solve_logistic(axes: Axes, target: Tensor, row_weights: Tensor, limits: Limits) -> Solution:
    """Minimises ||W_k||^2 / 2 + sum_i u_ki CE(W_k x_i + b_k, y_i) for each problem k.

    ``target`` (R, n) is one-hot, or for two classes the one row that marks the second; every class
    has to occur. ``row_weights`` (K, n) are u, the inverse penalty included. The intercept is
    free. A problem stops once ||gradient|| <= tol ||W||, which bounds the relative error of W by
    tol, and the objective's by tol^2: the penalty makes the least curvature one.
    """
    n, columns = axes.x.shape
    size = max(1, min(COLUMNS, ELEMENTS // n) // len(target))
    places = torch.arange(len(row_weights), device=target.device).split(size)  # type: ignore[no-untyped-call]

    def part(at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _solve(axes, target, row_weights[at], Limits(limits.tol[at], limits.steps[at]))

    parts = side_by_side(part, places)
    theta, steps, converged = (torch.cat(part) for part in zip(*parts, strict=True))
    theta = theta.view(-1, len(target), columns)
    weight = theta[..., :-1] @ axes.basis.T
    return Solution(weight, theta[..., -1] - weight @ axes.mean, steps, converged)


class _Stack(NamedTuple):
    """The problems that are still open, at their present points."""

    place: Tensor  # (k,) positions in the stack that was asked for
    u: Tensor  # (k, n)
    tol: Tensor  # (k,)
    limit: Tensor  # (k,) steps
    theta: Tensor  # (k, R (d + 1)) weights along the axes, the intercept last in each row
    scores: Tensor  # (k, R, n)
    value: Tensor  # (k,) of the objective
    residual: Tensor  # (k, R, n) p - target
    gradient: Tensor  # (k, R (d + 1))
    stuck: Tensor  # (k,) whether the last step found no lower point
    past: tuple[tuple[Tensor, Tensor], ...] = ()  # changes of theta and of the gradient

    def only(self, kept: Tensor) -> _Stack:
        """Those problems at which ``kept`` (k,) holds."""
        past = tuple((s[kept], y[kept]) for s, y in self.past)
        parts = {name: part[kept] for name, part in self._asdict().items() if name != "past"}
        return _Stack(**parts, past=past)


class _Objective:
    """What the problems share: the rows along their axes and the target."""

    def __init__(self, axes: Axes, target: Tensor) -> None:
        self.x, self.moments, self.target = axes.x, axes.moments, target
        self.sign = 1 - 2 * target
        self.radius = axes.x[:, :-1].norm(dim=1).max()  # of the centred rows
        self.penalised = torch.ones_like(axes.moments)  # (d + 1,) all but the intercept
        self.penalised[-1] = 0

    def rows(self, theta: Tensor) -> Tensor:
        """(k, R (d + 1)) -> (k, R, d + 1)."""
        return theta.view(len(theta), len(self.target), -1)

    def scores(self, theta: Tensor) -> Tensor:
        """(k, R, n), by one product."""
        scores: Tensor = self.rows(theta).flatten(0, 1) @ self.x.T
        return scores.view(len(theta), len(self.target), -1)

    def weights(self, theta: Tensor) -> Tensor:
        """W (k, R (d + 1)): theta with zeros in place of the intercepts."""
        return (self.rows(theta) * self.penalised).flatten(1)

    def value_and_residual(self, theta: Tensor, u: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The objective (k,), and its terms' derivatives by the scores, p - target (k, R, n)."""
        if len(self.target) == 1:
            p = scores.sigmoid()
            losses = F.softplus((self.sign * scores)[:, 0], threshold=40.0)  # 20 is too inexact
        else:
            normaliser = scores.logsumexp(1)
            p = (scores - normaliser[:, None]).exp()
            losses = normaliser - (self.target * scores).sum(1)
        value = self.weights(theta).square().sum(1) / 2 + (u * losses).sum(1)
        return value, p - self.target

    def gradient(self, theta: Tensor, u: Tensor, residual: Tensor) -> Tensor:
        """(k, R (d + 1)), by one product."""
        pulled = (u[:, None] * residual).flatten(0, 1) @ self.x  # (k R, d + 1)
        return self.weights(theta) + pulled.view_as(theta)

    def precondition(self, stack: _Stack, q: Tensor) -> Tensor:
        """q (k, R (d + 1)) over the Hessian's diagonal, were p (1 - p) alike in all rows.

        A shift of all classes changes no score, so what comes out has none.
        """
        p = stack.residual + self.target
        mass = torch.einsum("kn,krn->kr", stack.u, p * (1 - p))
        curvature = mass[..., None] * self.moments / len(self.x) + self.penalised
        out = self.rows(q) / curvature.clamp(min=torch.finfo(q.dtype).tiny)
        if len(self.target) > 1:
            out = out - out.mean(1, keepdim=True)
        return out.flatten(1)

    def rounding(self, stack: _Stack) -> Tensor:
        """What float64 may leave of the objective (k,)."""
        return ROUNDING * (stack.value + stack.u.sum(1))

    def converged(self, stack: _Stack) -> Tensor:
        """Whether what is left of each gradient (k,) is small beside W, or no more than rounding.

        An intercept that is not solved for yet would move the sum of p - target by its gradient,
        and the gradient of W by no more than the radius times that.
        """
        parts = self.rows(stack.gradient)
        left = parts[..., :-1].flatten(1).norm(dim=1) + self.radius * parts[..., -1].norm(dim=1)
        floor = self.rounding(stack) * (1 + self.radius)
        small: Tensor = left <= (stack.tol * self.weights(stack.theta).norm(dim=1)).maximum(floor)
        return small


def _solve(axes: Axes, target: Tensor, u: Tensor, limits: Limits) -> tuple[Tensor, Tensor, Tensor]:
    """Points (K, R (d + 1)) along the axes, steps taken and convergence of one stack."""
    objective = _Objective(axes, target)
    stack = _start(objective, u, limits)
    found = torch.empty_like(stack.theta)
    steps, converged = torch.full_like(stack.limit, -1), torch.zeros_like(stack.stuck)
    for step in range(int(limits.steps.max()) + 1):
        small = objective.converged(stack)
        over = small | stack.stuck | (stack.limit <= step)
        new = over & (steps[stack.place] < 0)
        at = stack.place[new]
        found[at], steps[at], converged[at] = stack.theta[new], step, small[new]
        if over.all():
            break
        if over.sum() * LEFT_OUT >= len(over) or stack.stuck.any():
            stack = stack.only(~over)
        stack = _step(objective, stack)
    return found, steps, converged


def _start(objective: _Objective, u: Tensor, limits: Limits) -> _Stack:
    """No weights, and the intercepts that are best without any."""
    share = (u @ objective.target.T) / u.sum(1, keepdim=True)  # (k, R)
    intercept = share.logit() if len(objective.target) == 1 else share.log()
    if len(objective.target) > 1:
        intercept = intercept - intercept.mean(1, keepdim=True)
    theta = u.new_zeros(*share.shape, len(objective.moments))
    theta[..., -1] = intercept
    theta = theta.flatten(1)
    scores = intercept[..., None].expand(*share.shape, u.shape[1]).contiguous()
    value, residual = objective.value_and_residual(theta, u, scores)
    gradient = objective.gradient(theta, u, residual)
    return _Stack(
        place=torch.arange(len(u), device=u.device),
        u=u,
        tol=limits.tol,
        limit=limits.steps,
        theta=theta,
        scores=scores,
        value=value,
        residual=residual,
        gradient=gradient,
        stuck=torch.zeros_like(value, dtype=torch.bool),
    )


def _step(objective: _Objective, stack: _Stack) -> _Stack:
    """One step of L-BFGS for every open problem."""
    way = _direction(objective, stack)
    t, scores, value, residual = _search(objective, stack, way)
    change = t[:, None] * way
    theta = stack.theta + change
    gradient = objective.gradient(theta, stack.u, residual)
    past = (*stack.past, (change, gradient - stack.gradient))[-HISTORY:]
    return stack._replace(
        theta=theta,
        scores=scores,
        value=value,
        residual=residual,
        gradient=gradient,
        stuck=t == 0,
        past=past,
    )


def _direction(objective: _Objective, stack: _Stack) -> Tensor:
    """Minus the gradient times L-BFGS's approximate inverse Hessian, by its two loops."""
    q = stack.gradient.clone()
    kept = []
    for s, y in reversed(stack.past):
        bend = (s * y).sum(1)  # positive but where rounding has the say
        rho = torch.where(bend > 0, 1 / bend, 0)
        alpha = rho * (s * q).sum(1)
        q -= alpha[:, None] * y
        kept.append((s, y, rho, alpha))
    q = objective.precondition(stack, q)
    for s, y, rho, alpha in reversed(kept):
        q += (alpha - rho * (y * q).sum(1))[:, None] * s
    return -q


def _search(
    objective: _Objective, stack: _Stack, way: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """How far to go (k,), and scores, value and residual there; 0 where no point would do.

    A point will do if the slope has halved and the value is no higher. On a convex line the slope
    rises, so its zero is bracketed: by steps of three until it is passed, then by the secant, kept
    off the ends. Only problems without a point yet are looked at again.
    """
    rate = objective.scores(way)  # (k, R, n) of the scores along the line
    weights, along = objective.weights(stack.theta), objective.weights(way)
    start, ceiling = (stack.gradient * way).sum(1), stack.value + objective.rounding(stack)

    def look(at: Tensor, k: Tensor | slice) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Scores, value, residual and slope at points of the lines ``k``; whether it will do."""
        u, ahead, step = stack.u[k], rate[k], at[:, None] * along[k]
        scores = stack.scores[k] + at[:, None, None] * ahead
        value, residual = objective.value_and_residual(weights[k] + step, u, scores)
        slope = (u * (residual * ahead).sum(1)).sum(1) + ((weights[k] + step) * along[k]).sum(1)
        fine = (slope.abs() <= start[k].abs() / 2) & ((value <= ceiling[k]) | (slope < 0))
        return scores, value, residual, slope, fine

    t, low, low_slope = torch.ones_like(start), torch.zeros_like(start), start.clone()
    high, high_slope = torch.full_like(t, torch.inf), torch.ones_like(t)
    scores, value, residual, slope, fine = look(t, slice(None))
    todo, slope = fine.logical_not().nonzero()[:, 0], slope[~fine]
    for _ in range(TRIES):
        if len(todo) == 0:
            break
        at, near = t[todo], slope < 0
        low[todo[near]], low_slope[todo[near]] = at[near], slope[near]
        high[todo[~near]], high_slope[todo[~near]] = at[~near], slope[~near]
        a, b, rise, gap = low[todo], high[todo], (high_slope - low_slope)[todo], (high - low)[todo]
        inside = (a - low_slope[todo] * gap / rise).clamp(a + 0.1 * gap, b - 0.1 * gap)
        t[todo] = torch.where(b.isinf(), 3 * at, inside)
        scores[todo], value[todo], residual[todo], slope, fine = look(t[todo], todo)
        todo, slope = todo[~fine], slope[~fine]
    t[todo] = 0  # rounding alone is left, or the line leads nowhere
    scores[todo], value[todo], residual[todo] = (
        part[todo] for part in (stack.scores, stack.value, stack.residual)
    )
    return t, scores, value, residual
