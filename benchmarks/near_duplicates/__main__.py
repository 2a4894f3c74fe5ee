"""How many near-duplicates does each stage find, and how many unrelated posts does it take for copies?

Copies: real photos and videos out of installed packages, each edited the ways people edit before they upload again.
Unrelated: every copy against every other original; and a hundred faces of different people against each other, because
content of one kind is what an encoder of kinds confuses. The encoder is the local profile's.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence

import numpy as np
from PIL import Image

from benchmarks.near_duplicates import edits, samples, stages
from benchmarks.near_duplicates.looked_at import Eye, Seen
from benchmarks.near_duplicates.stages import Pairs
from benchmarks.report import Row, against, options, report
from deployments.media.pdq import signature
from deployments.similarity.uses.alignment import Alignment, Order, align_signatures, align_vectors
from deployments.similarity.uses.signatures import MATCH_BITS, mirror

PDQ_BITS = (MATCH_BITS, 40, 48, 60)
COSINES = (0.80, 0.85, 0.90, 0.94, 0.96, 0.98)
DEFAULT = 0.96
"""Cosine from which on the local profile's visual vectors are taken for copies: above all of the hundred faces."""
FRAME = 0.90
"""Cosine of two frames, where the order of the frames is checked as well."""
CONFIRMED = (0.85, 60)
"""Cosine and PDQ bits that suffice together, where neither does alone."""
TRIMMED, FASTER, REVERSED = "first quarter cut off", "a tenth faster", "reversed"


def main() -> None:
    given = options(__doc__ or "")
    eye = Eye()
    recipes = {name: edits.RECIPES[name] for name in (edits.QUICK if given.quick else edits.RECIPES)}
    originals, copies = look_at_photos(eye, recipes)
    faces = look_at_faces(eye)
    films, film_copies = look_at_videos(eye, recipes)
    rows = [
        *photo_rows(originals, copies),
        *sweep_rows(originals, copies, faces),
        *video_rows(films, film_copies),
        *cost_rows(),
    ]
    report(f"near_duplicates: recall and false positives of each stage, encoder {eye.model}", rows, given)


def look_at_photos(eye: Eye, recipes: dict[str, edits.Recipe]) -> tuple[list[Seen], list[Seen]]:
    originals, copies = [], []
    for name, data in samples.photos().items():
        originals.append(eye.look(name, "", data))
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        for edit, recipe in recipes.items():
            copies.append(eye.look(name, edit, edits.jpeg(recipe.edit(picture), recipe.jpeg_quality)))
    return originals, copies


def look_at_faces(eye: Eye) -> list[Seen]:
    """Not sharp (25 pixels enlarged), but a hundred people."""
    return [eye.look(f"face {n}", "", edits.jpeg(face, 90)) for n, face in enumerate(samples.faces())]


def look_at_videos(eye: Eye, recipes: dict[str, edits.Recipe]) -> tuple[list[Seen], list[Seen]]:
    originals, copies = [], []
    for name, data in samples.videos().items():
        originals.append(eye.look(name, "", data))
        frames = samples.film_frames(data)
        for edit, recipe in recipes.items():
            edited = [recipe.edit(frame) for frame in frames]
            copies.append(eye.look(name, edit, samples.encoded(edited, crf=recipe.crf)))
        copies.append(eye.look(name, TRIMMED, samples.encoded(frames[len(frames) // 4 :])))
        copies.append(eye.look(name, FASTER, samples.encoded(frames, fps=samples.FPS + 1)))
        copies.append(eye.look(name, REVERSED, samples.encoded(frames[::-1])))
    copies.append(eye.look("carphone", "as shipped, distorted", samples.shipped_copy()))
    return originals, copies


def photo_rows(originals: Sequence[Seen], copies: Sequence[Seen]) -> list[Row]:
    """Recall by edit. The baseline is PDQ alone at its paper's threshold."""
    rows = [
        Row("photo_recall_sha256_same_bytes", Pairs.of(originals, originals, stages.sha256).recall(0), "share"),
        Row("photo_recall_sha256_edited", Pairs.of(copies, originals, stages.sha256).recall(0), "share"),
    ]
    for edit in dict.fromkeys(copy.edit for copy in copies):
        these = [copy for copy in copies if copy.edit == edit]
        plain = Pairs.of(these, originals, stages.pdq).recall(MATCH_BITS)
        both = Pairs.of(these, originals, stages.pdq_both_ways).recall(MATCH_BITS)
        cosine = Pairs.of(these, originals, stages.embedding()).recall(1 - DEFAULT)
        name = _metric(edit)
        rows += [
            Row(f"photo_recall_pdq_{name}", plain, f"share, {MATCH_BITS} bits"),
            against(f"photo_recall_pdq_mirrored_{name}", both, f"share, {MATCH_BITS} bits", plain),
            against(f"photo_recall_embedding_{name}", cosine, f"share, cosine {DEFAULT}", plain),
        ]
    return rows


def sweep_rows(originals: Sequence[Seen], copies: Sequence[Seen], faces: Sequence[Seen]) -> list[Row]:
    """All edits together: recall, and the shares of unrelated photos and of different people taken for copies."""
    rows = []
    bits, face_bits = (Pairs.of(a, b, stages.pdq_both_ways) for a, b in ((copies, originals), (faces, faces)))
    for limit in PDQ_BITS:
        rows += _sweep(f"pdq_{limit}", bits, face_bits, limit)
    rows.append(Row("nearest_unrelated_pdq", min(bits.clean, face_bits.clean), "bits"))
    centre = np.mean([original.mean for original in originals], axis=0)
    for name, distance in (("cosine", stages.embedding()), ("centred_cosine", stages.embedding(centre))):
        near, face_near = (Pairs.of(a, b, distance) for a, b in ((copies, originals), (faces, faces)))
        for cosine in COSINES:
            rows += _sweep(f"{name}_{cosine:.2f}", near, face_near, 1 - cosine)
        for kind, clean in (("photos", near.clean), ("faces", min(near.clean, face_near.clean))):
            rows.append(Row(f"{name}_without_false_{kind}", 1 - clean, "cosine"))
            rows.append(Row(f"recall_{name}_without_false_{kind}", near.recall(clean), "share"))
    return rows + _sweep("chain", Pairs.of(copies, originals, chain), Pairs.of(faces, faces, chain), 0.5)


def chain(one: Seen, other: Seen) -> float:
    """0 for a copy by any stage: PDQ alone, the cosine alone, or both at once at looser thresholds."""
    bits, cosine = stages.pdq_both_ways(one, other), 1 - stages.embedding()(one, other)
    together = cosine >= CONFIRMED[0] and bits <= CONFIRMED[1]
    return 0.0 if bits <= MATCH_BITS or cosine >= DEFAULT or together else 1.0


def video_rows(originals: Sequence[Seen], copies: Sequence[Seen]) -> list[Row]:
    """Recall over the films for each edit; reversed films count as unrelated: their order must be refused."""
    rows = []
    for edit in dict.fromkeys(copy.edit for copy in copies):
        pairs = [(c, o) for c in copies for o in originals if c.edit == edit and c.source == o.source]
        by_bits, by_cosine = ([check(c, o) for c, o in pairs] for check in (by_signatures, by_vectors))
        mean = float(np.mean([stages.embedding()(c, o) <= 1 - DEFAULT for c, o in pairs]))
        name = _metric(edit)
        rows += [
            Row(f"video_matched_pdq_in_order_{name}", _share(by_bits), "share"),
            Row(f"video_matched_mean_cosine_{name}", mean, f"share, cosine {DEFAULT}"),
            against(f"video_matched_frames_in_order_{name}", _share(by_cosine), f"share, cosine {FRAME}", mean),
            Row(f"video_matched_seconds_{name}", _matched(pairs, by_cosine), "share of the copy"),
        ]
    strangers = [(c, o) for c in copies for o in originals if c.source != o.source]
    rows += [
        Row("video_false_pdq_in_order", _share([by_signatures(c, o) for c, o in strangers]), "share of pairs"),
        Row("video_false_frames_in_order", _share([by_vectors(c, o) for c, o in strangers]), "share of pairs"),
        Row(
            "video_nearest_unrelated_mean_cosine",
            max(1 - stages.embedding()(c, o) for c, o in strangers),
            "cosine",
        ),
    ]
    return rows


def by_signatures(copy: Seen, original: Seen) -> Alignment:
    """PDQ of the film or of its mirror image, whichever matches more seconds."""
    found = [
        align_signatures(
            signatures, original.signatures, duration_s=copy.duration_s, other_duration_s=original.duration_s
        )
        for signatures in (copy.signatures, mirror(copy.signatures))
    ]
    return max(found, key=lambda alignment: alignment.matched_s)


def by_vectors(copy: Seen, original: Seen) -> Alignment:
    return align_vectors(
        copy.frames(), original.frames(), FRAME, duration_s=copy.duration_s, other_duration_s=original.duration_s
    )


def cost_rows() -> list[Row]:
    """Core-ms of one PDQ signature, by the length of the longer side."""
    photo = Image.open(io.BytesIO(samples.photos()["china"])).convert("RGB")
    rows = []
    for side in (320, 640, 1280, 3000):
        picture = photo.resize((side, round(side * photo.height / photo.width)))
        signature(picture)  # its window is worked out once for each size
        started = time.process_time()
        for _ in range(10):
            signature(picture)
        rows.append(Row(f"pdq_cpu_ms_{side}_pixels", (time.process_time() - started) / 10 * 1000, "ms"))
    return rows


def _sweep(name: str, pairs: Pairs, faces: Pairs, limit: float) -> list[Row]:
    return [
        Row(f"photo_recall_{name}", pairs.recall(limit), "share"),
        Row(f"photo_false_{name}", pairs.false_positives(limit), "share of pairs"),
        Row(f"face_false_{name}", faces.false_positives(limit), "share of pairs"),
    ]


def _share(found: Sequence[Alignment]) -> float:
    return float(np.mean([alignment.matches and alignment.order is not Order.DISAGREES for alignment in found]))


def _matched(pairs: Sequence[tuple[Seen, Seen]], found: Sequence[Alignment]) -> float:
    return float(np.mean([a.matched_s / (copy.duration_s or 1) for (copy, _), a in zip(pairs, found, strict=True)]))


def _metric(edit: str) -> str:
    return "_".join(edit.replace("%", "percent").replace("-", " ").replace(",", "").split())


if __name__ == "__main__":
    main()
