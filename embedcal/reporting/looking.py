"""What needs the cache: galleries, explanations, maps, and attributes to be judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedcal.cache import FeatureCache
from embedcal.reporting.behind import Tested
from embedcal.reporting.content import Detected, Explained, Figure, Gallery, Judged, Mapped, Shot
from embedcal.reporting.inline import picture
from embedcal.reporting.thumbnails import Thumbnails
from embedcal.tables import percent
from embedcal.types import IntArray

if TYPE_CHECKING:
    from embedcal.detecting import Detection
    from embedcal.runs import Run

GALLERIES, SHOTS = 3, 12  # groups, and images of each
EXPLAINED = 4  # rows in a figure
PER_CLASS, ATTRIBUTES = 3, 8  # attributes of each class, and in all
EACH = 6  # images with an attribute, and as many without it


@dataclass(frozen=True, kw_only=True)
class Look:
    """One run over its cache: the cache's rows (n,) that its test predictions are of."""

    label: str
    tested: Tested
    cache: FeatureCache
    thumbnails: Thumbnails
    rows: IntArray
    groups: tuple[str, ...]

    def shot(self, place: int) -> Shot:
        """The image in one place of the test split."""
        names, told = self.cache.meta.classes, self.tested
        row, y, guess = int(self.rows[place]), told.cells.y[place], told.predicted[place]
        return Shot(
            row=row,
            id=self.cache.samples.ids[row],
            label=names[y],
            prediction=names[guess],
            right=bool(y == guess),
            margin=float(told.margin[place]),
            picture=self.thumbnails.of(row),
        )


def galleries(look: Look) -> tuple[Gallery, ...]:
    """The worst errors of the groups (classes, without attributes) with the lowest accuracy."""
    told = look.tested
    cells, wrong, margin = told.cells, told.predicted != told.cells.y, told.margin
    if cells.n_attributes:
        place = np.where(cells.a >= 0, cells.y * cells.n_attributes + cells.a, -1)
        names, what = look.groups, "group"
    else:
        place, names, what = cells.y, look.cache.meta.classes, "class"
    found = []
    for g, name in enumerate(names):
        n, errors = int((place == g).sum()), np.flatnonzero((place == g) & wrong)
        if len(errors):
            found.append((1 - len(errors) / n, name, n, errors[np.argsort(margin[errors])]))
    found.sort(key=lambda each: each[0])
    return tuple(
        Gallery(
            title=name,
            note=f"{len(errors):,} of {n:,} test images of this {what} are wrong under "
            f"{look.label} (accuracy {percent(accuracy)} %)"
            + (f"; the {SHOTS} furthest from right:" if len(errors) > SHOTS else ":"),
            shots=tuple(look.shot(int(at)) for at in errors[:SHOTS]),
        )
        for accuracy, name, n, errors in found[:GALLERIES]
    )


def explained(look: Look, name: str, device: str) -> Explained:
    """Grad-CAM of the images that the run gets most wrong, beside zero-shot's.

    EmbedcalError where the encoder, the images, or what stands between them is not there.
    """
    from embedcal.explaining import Sources, explain, figure

    order = np.argsort(look.tested.margin, kind="stable")[:EXPLAINED]
    rows = look.rows[order].tolist()
    heads: dict[str, Run | None] = {"zero-shot": None} if "class" in look.cache.banks else {}
    if look.tested.run.record["method"] != "zeroshot":
        heads[look.label] = look.tested.run
    pictures = look.thumbnails.pictures
    sources = Sources(root=None if pictures is None else pictures.root)
    found = {
        head: explain(run, look.cache, rows, sources=sources, device=device)
        for head, run in heads.items()
    }
    names, ids = look.cache.meta.classes, look.cache.samples.ids
    table = []
    for at, row in enumerate(rows):
        told = []
        for each in found.values():
            score = np.nan if each.aiou is None else each.aiou[at]
            said = names[int(each.predicted[at])]
            told.append(said if np.isnan(score) else f"{said}, AIoU {score:.2f}")
        table.append((ids[row], names[int(look.cache.samples.y[row])], *told))
    markup = picture(figure(found, look.cache), "Grad-CAM; the table below says the same in words")
    return Explained(
        figure=Figure(
            name=name,
            title=f"Grad-CAM of the {len(rows)} images that {look.label} gets most wrong",
            markup=markup,
            words="Grad-CAM of the true class: bright is where the head's evidence lies. The "
            "dashed outline is the object, where it is known. AIoU: how much better the map covers "
            "the object than its strongest rival's; one half is no difference.",
            wide=True,
        ),
        columns=("Image", "Class", *heads),
        rows=tuple(table),
    )


def mapped(run: Run, attributes: Sequence[str], cache: FeatureCache, name: str) -> Mapped:
    """The embeddings of test before and after a run, with silhouettes of class and attribute.

    EmbedcalError where a head has no space of its own to be drawn.
    """
    from embedcal.mapping import draw, map_run

    found = map_run(run, cache, attribute=attributes or None)
    table = []
    for view in (found.before, found.after):
        scores = [
            "–"
            if each is None
            else f"{each.mean:.2f} ({each.interval[0]:.2f} to {each.interval[1]:.2f})"
            for each in (view.by_class, view.by_attribute)
        ]
        table.append((view.name, view.space, *scores))
    markup = picture(draw(found, cache), "A map of the embeddings; the table below has its numbers")
    return Mapped(
        figure=Figure(
            name=name,
            title=f"Embeddings of test before and after {found.after.name}",
            markup=markup,
            words=f"{len(found.rows):,} of {found.n:,} test images in a plane, each map by a "
            "principal component analysis or a decision plane of its own, as its title says: what "
            "lies together is alike.",
            wide=True,
        ),
        columns=("Space", "What it is", "Silhouette of class", "Silhouette of attribute"),
        rows=tuple(table),
    )


def detected(cache: FeatureCache, thumbnails: Thumbnails, device: str) -> Detected:
    """Attributes that zero-shot's accuracy hangs on, with images to judge them by.

    On validation, as ``embedcal detect`` by default. EmbedcalError as ``detect`` raises it.
    """
    from embedcal.detecting import DetectOptions, detect

    found = detect(cache, split="val", options=DetectOptions(device=device))
    leading = found.leading(PER_CLASS)
    names = list(dict.fromkeys(effect.attribute for effect in leading))[:ATTRIBUTES]
    return Detected(
        of=found.of,
        split=found.split,
        detector=found.detector,
        tested=len(found.effects),
        effects=tuple(leading),
        classes=found.classes,
        judged=tuple(
            Judged(
                attribute=name,
                effects=tuple(effect for effect in leading if effect.attribute == name),
                present=_shown(found, name, 1, cache, thumbnails),
                absent=_shown(found, name, 0, cache, thumbnails),
            )
            for name in names
        ),
        agreements=tuple(
            f"'{each.name}' agrees with {each.attribute} = {each.value} on "
            f"{percent(each.agreement)} % of {each.n:,} images"
            for each in found.agreements
        ),
    )


def _shown(
    found: Detection, name: str, value: int, cache: FeatureCache, thumbnails: Thumbnails
) -> tuple[Shot, ...]:
    """Images that show an attribute most clearly, or least, of the classes that hang on it."""
    presence = found.presence
    column = presence.names.index(name)
    labels = [effect.label for effect in found.leading(PER_CLASS) if effect.attribute == name]
    places: list[int] = []
    each = max(1, EACH // len(labels))
    for label in labels:
        own = np.flatnonzero((found.y == label) & (presence.present[:, column] == value))
        if presence.margin is not None:
            sign = -1 if value else 1
            own = own[np.argsort(sign * presence.margin[own, column], kind="stable")]
        places += own[:each].tolist()
    classes = cache.meta.classes
    return tuple(
        Shot(
            row=int(presence.rows[at]),
            id=cache.samples.ids[int(presence.rows[at])],
            label=classes[int(found.y[at])],
            prediction=classes[int(found.predicted[at])],
            right=bool(found.y[at] == found.predicted[at]),
            margin=None,
            picture=thumbnails.of(int(presence.rows[at])),
        )
        for at in places
    )
