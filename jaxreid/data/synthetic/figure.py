"""People in pictures: the tubes of a body, rotated and tilted, drawn from far to near."""

import dataclasses
import math

import numpy as np

from jaxreid.data.synthetic.anatomy import Point, Pose, body
from jaxreid.data.synthetic.people import Person
from jaxreid.data.synthetic.tubes import COLUMNS, cosine, paint, shading, sine


@dataclasses.dataclass(frozen=True)
class Eye:
    """View of a camera on one figure.

    Attributes:
        x, y: position of the floor point under the body, in pixels.
        scale: pixels per metre.
        pitch: degrees by which the camera looks down.
        light: degrees from the camera to the light, clockwise seen from above.
        ambient: light in the shade, in 256ths.
        stretch: pixels across over pixels down for the same length; above 1 for narrow boxes.
    """

    x: float
    y: float
    scale: float
    pitch: int
    light: int
    ambient: int
    stretch: float = 1.0


def draw(canvas: np.ndarray, p: Person, pose: Pose, eye: Eye) -> None:
    """Draw a person into `canvas`, int32 [h, w, 3] in 0..255, in place."""
    sy, cy = sine(pose.yaw), cosine(pose.yaw)
    sp, cp = sine(eye.pitch), cosine(eye.pitch)

    def depth(q: Point) -> float:
        return q[0] * sy + q[1] * cy

    def project(q: Point) -> tuple[float, float]:
        x = q[0] * cy - q[1] * sy
        return eye.x + eye.scale * eye.stretch * x, eye.y - eye.scale * (q[2] * cp - depth(q) * sp)

    shade = shading(eye.light, eye.ambient)
    turn = pose.yaw * COLUMNS // 360
    which, down, around = pose.folds
    # The second eight are sharper.
    creases = 0 if p.details is None else 8
    order = sorted(body(p, pose), key=lambda q: (depth(q.a) + depth(q.b)) / 2 + q.layer)
    for i, part in enumerate(order):
        spread = math.sqrt(cy * cy + (part.deep * sy) * (part.deep * sy)) * eye.scale * eye.stretch
        kind = ((which + i) & 7) + creases
        fold = (kind, down + 7 * i, around) if part.cloth else None
        paint(canvas, project(part.a), project(part.b), part.wide * spread, part.texture,
              turn, shade, fold)  # fmt: skip
