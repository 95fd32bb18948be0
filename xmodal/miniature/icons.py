"""The pictures of the miniature world: eighteen things drawn with Pillow so that a person names them at a glance.

Each thing is one small function over a :class:`Pen`, which draws in the thing's own coordinates ([-1, 1], y down) and
places, scales and rotates them on the canvas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import cos, pi, sin

from PIL import ImageDraw

RGB = tuple[int, int, int]
Points = Sequence[tuple[float, float]]

INK: RGB = (38, 34, 42)
SNOW: RGB = (250, 250, 246)
GOLD: RGB = (250, 176, 40)
SKY: RGB = (90, 170, 240)
ROSE: RGB = (240, 110, 130)
WOOD: RGB = (130, 84, 48)


class Pen:
    """Draws polygons in a thing's coordinates on a Pillow canvas.

    ``x``, ``y`` centre and ``radius`` are in canvas pixels, ``angle`` in radians; ``colour`` is the thing's own colour.
    """

    def __init__(self, canvas: ImageDraw.ImageDraw, x: float, y: float, radius: float, angle: float, colour: RGB) -> None:
        self.canvas, self.x, self.y, self.radius = canvas, x, y, radius
        self.cos, self.sin = radius * cos(angle), radius * sin(angle)
        self.colour = colour
        self.dark: RGB = tuple(int(c * 0.62) for c in colour)  # type: ignore[assignment]
        self.light: RGB = tuple(int(c + (255 - c) * 0.55) for c in colour)  # type: ignore[assignment]
        self.outline = max(1.0, 0.09 * radius)

    def _place(self, points: Points) -> list[tuple[float, float]]:
        return [(self.x + self.cos * u - self.sin * v, self.y + self.sin * u + self.cos * v) for u, v in points]

    def polygon(self, points: Points, fill: RGB, outlined: bool = True) -> None:
        placed = self._place(points)
        if outlined:
            self.canvas.line([*placed, placed[0], placed[1]], fill=INK, width=int(2 * self.outline), joint="curve")
        self.canvas.polygon(placed, fill=fill)

    def line(self, points: Points, fill: RGB = INK, width: float = 0.1) -> None:
        self.canvas.line(self._place(points), fill=fill, width=max(1, int(width * self.radius)), joint="curve")

    def ellipse(self, u: float, v: float, a: float, b: float, fill: RGB, outlined: bool = True, tilt: float = 0.0) -> None:
        c, s = cos(tilt), sin(tilt)
        circle = [(a * cos(t), b * sin(t)) for t in _TURNS]
        self.polygon([(u + c * p - s * q, v + s * p + c * q) for p, q in circle], fill, outlined)

    def arc(self, u: float, v: float, a: float, b: float, start: float, end: float, fill: RGB = INK, width: float = 0.1) -> None:
        steps = [start + (end - start) * i / 12 for i in range(13)]
        self.line([(u + a * cos(t), v + b * sin(t)) for t in steps], fill, width)

    def eye(self, u: float, v: float, size: float = 0.13) -> None:
        self.ellipse(u, v, size, size, SNOW, outlined=False)
        self.ellipse(u + 0.02, v, size * 0.62, size * 0.62, INK, outlined=False)


_TURNS = [2 * pi * i / 28 for i in range(28)]


def bell(p: Pen) -> None:
    p.ellipse(0, 0.74, 0.2, 0.2, p.dark)
    p.ellipse(0, -0.84, 0.14, 0.14, p.dark)
    dome = [(-0.45 + 0.9 * i / 12, -0.35 - 0.42 * sin(pi * i / 12)) for i in range(13)]
    p.polygon([*dome, (0.5, 0.15), (0.86, 0.6), (-0.86, 0.6), (-0.5, 0.15)], p.colour)
    p.line([(-0.66, 0.38), (0.66, 0.38)], p.dark, 0.12)
    p.line([(-0.3, -0.35), (-0.36, 0.15)], p.light, 0.14)


def drum(p: Pen) -> None:
    p.line([(-0.95, -0.95), (-0.1, -0.4)], WOOD, 0.14)
    p.line([(0.95, -0.95), (0.1, -0.4)], WOOD, 0.14)
    p.ellipse(0, 0.6, 0.85, 0.3, p.colour)
    p.polygon([(-0.85, -0.25), (0.85, -0.25), (0.85, 0.6), (-0.85, 0.6)], p.colour)
    p.ellipse(0, 0.58, 0.83, 0.29, p.colour, outlined=False)
    p.line([(-0.85, 0), (-0.45, 0.75), (0, 0.05), (0.45, 0.75), (0.85, 0)], SNOW, 0.1)
    p.ellipse(0, -0.27, 0.85, 0.3, SNOW)
    p.ellipse(-0.1, -0.4, 0.1, 0.1, WOOD, outlined=False)
    p.ellipse(0.1, -0.4, 0.1, 0.1, WOOD, outlined=False)


def bird(p: Pen) -> None:
    p.line([(-0.15, 0.6), (-0.2, 0.98)], GOLD, 0.12)
    p.line([(0.15, 0.6), (0.15, 0.98)], GOLD, 0.12)
    p.polygon([(-0.5, 0.1), (-1, -0.25), (-0.95, 0.2)], p.dark)
    p.polygon([(0.7, -0.55), (1.02, -0.38), (0.7, -0.25)], GOLD)
    p.ellipse(-0.05, 0.2, 0.66, 0.5, p.colour)
    p.ellipse(0.42, -0.42, 0.4, 0.38, p.colour)
    p.ellipse(0.1, 0.1, 0.5, 0.4, p.colour, outlined=False)
    p.ellipse(-0.22, 0.14, 0.4, 0.22, p.dark, outlined=False, tilt=-0.35)
    p.ellipse(0.25, 0.36, 0.28, 0.22, p.light, outlined=False)
    p.eye(0.52, -0.5)


def dog(p: Pen) -> None:
    p.ellipse(0, 0, 0.66, 0.76, p.colour)
    p.ellipse(-0.7, -0.1, 0.24, 0.6, p.dark, tilt=0.2)
    p.ellipse(0.7, -0.1, 0.24, 0.6, p.dark, tilt=-0.2)
    p.ellipse(0, 0.82, 0.15, 0.22, ROSE)
    p.ellipse(0, 0.42, 0.42, 0.36, SNOW, outlined=False)
    p.ellipse(0, 0.22, 0.2, 0.14, INK, outlined=False)
    p.line([(0, 0.3), (0, 0.52), (-0.2, 0.64)], INK, 0.08)
    p.line([(0, 0.52), (0.2, 0.64)], INK, 0.08)
    p.eye(-0.27, -0.2, 0.15)
    p.eye(0.27, -0.2, 0.15)


def cat(p: Pen) -> None:
    for side in (-1, 1):
        p.polygon([(side * 0.8, -0.1), (side * 0.74, -0.98), (side * 0.15, -0.5)], p.colour)
        p.polygon([(side * 0.66, -0.35), (side * 0.66, -0.75), (side * 0.36, -0.5)], ROSE, outlined=False)
    p.ellipse(0, 0.15, 0.82, 0.68, p.colour)
    for side in (-1, 1):
        p.ellipse(side * 0.33, 0.0, 0.15, 0.2, (190, 235, 90), outlined=False)
        p.ellipse(side * 0.33, 0.0, 0.05, 0.18, INK, outlined=False)
        p.line([(side * 0.35, 0.36), (side * 1.02, 0.22)], INK, 0.06)
        p.line([(side * 0.35, 0.46), (side * 1.02, 0.54)], INK, 0.06)
    p.polygon([(-0.13, 0.24), (0.13, 0.24), (0, 0.4)], ROSE, outlined=False)
    p.arc(-0.12, 0.44, 0.12, 0.14, 0, pi, INK, 0.07)
    p.arc(0.12, 0.44, 0.12, 0.14, 0, pi, INK, 0.07)


def frog(p: Pen) -> None:
    p.ellipse(-0.46, -0.5, 0.3, 0.3, p.colour)
    p.ellipse(0.46, -0.5, 0.3, 0.3, p.colour)
    p.ellipse(0, 0.15, 0.98, 0.62, p.colour)
    p.ellipse(0, 0.5, 0.62, 0.24, p.light, outlined=False)
    for side in (-1, 1):
        p.ellipse(side * 0.46, -0.52, 0.22, 0.22, SNOW, outlined=False)
        p.ellipse(side * 0.46, -0.52, 0.11, 0.15, INK, outlined=False)
        p.ellipse(side * 0.12, -0.05, 0.05, 0.04, INK, outlined=False)
    p.arc(0, 0.1, 0.72, 0.3, 0.05, pi - 0.05, INK, 0.1)


def bee(p: Pen) -> None:
    p.ellipse(-0.25, -0.52, 0.28, 0.46, (222, 238, 250), tilt=-0.5)
    p.ellipse(0.22, -0.55, 0.28, 0.46, (222, 238, 250), tilt=0.35)
    p.polygon([(-0.78, 0.1), (-1.05, 0.22), (-0.78, 0.36)], INK)
    p.ellipse(0, 0.22, 0.86, 0.52, p.colour)
    for u, h in ((-0.46, 0.42), (-0.06, 0.5)):
        p.polygon([(u - 0.1, 0.22 - h), (u + 0.1, 0.22 - h), (u + 0.1, 0.22 + h), (u - 0.1, 0.22 + h)], INK, outlined=False)
    p.line([(0.6, -0.2), (0.85, -0.6)], INK, 0.08)
    p.eye(0.55, 0.1, 0.15)


def clock(p: Pen) -> None:
    p.polygon([(-0.6, 0.7), (-0.72, 1), (-0.3, 0.85)], p.dark)
    p.polygon([(0.6, 0.7), (0.72, 1), (0.3, 0.85)], p.dark)
    p.ellipse(0, 0, 0.92, 0.92, p.colour)
    p.ellipse(0, 0, 0.68, 0.68, SNOW, outlined=False)
    for i in range(12):
        c, s = cos(pi * i / 6), sin(pi * i / 6)
        p.line([(0.52 * c, 0.52 * s), (0.63 * c, 0.63 * s)], INK, 0.07)
    p.line([(0, 0), (0, -0.5)], INK, 0.11)
    p.line([(0, 0), (0.34, 0.16)], INK, 0.13)


def siren(p: Pen) -> None:
    for angle in (-2.75, -2.15, -1.57, -0.99, -0.39):
        c, s = cos(angle), sin(angle)
        p.line([(0.72 * c, 0.25 + 0.85 * s), (1.0 * c, 0.25 + 1.2 * s)], GOLD, 0.14)
    dome = [(0.52 * cos(pi + pi * i / 14), 0.35 + 0.85 * sin(pi + pi * i / 14)) for i in range(15)]
    p.polygon([*dome, (0.52, 0.5), (-0.52, 0.5)], p.colour)
    p.ellipse(0, 0.12, 0.18, 0.26, SNOW, outlined=False)
    p.polygon([(-0.78, 0.52), (0.78, 0.52), (0.9, 0.9), (-0.9, 0.9)], (96, 96, 108))


def train(p: Pen) -> None:
    p.ellipse(0.3, -0.82, 0.2, 0.16, (228, 228, 232))
    p.ellipse(-0.02, -0.9, 0.14, 0.11, (228, 228, 232))
    p.polygon([(0.42, -0.62), (0.74, -0.62), (0.68, -0.1), (0.48, -0.1)], p.dark)
    p.polygon([(-0.2, -0.22), (0.86, -0.22), (0.86, 0.45), (-0.2, 0.45)], p.colour)
    p.polygon([(-0.92, -0.65), (-0.14, -0.65), (-0.14, 0.45), (-0.92, 0.45)], p.colour)
    p.polygon([(-0.76, -0.45), (-0.32, -0.45), (-0.32, -0.05), (-0.76, -0.05)], (205, 232, 250), outlined=False)
    p.line([(-1, -0.68), (-0.06, -0.68)], INK, 0.14)
    p.polygon([(0.86, 0.45), (1.06, 0.72), (0.7, 0.72)], p.dark)
    for u, r in ((-0.6, 0.3), (0.05, 0.22), (0.52, 0.22)):
        p.ellipse(u, 0.88 - r, r, r, (70, 70, 80))
        p.ellipse(u, 0.88 - r, r * 0.45, r * 0.45, SNOW, outlined=False)


def telephone(p: Pen) -> None:
    p.polygon([(-0.42, -0.35), (0.42, -0.35), (0.86, 0.85), (-0.86, 0.85)], p.colour)
    handset = [(-1, -0.3), (-0.95, -0.72), (-0.5, -0.9), (0.5, -0.9), (0.95, -0.72), (1, -0.3), (0.58, -0.22), (0.5, -0.5)]
    p.polygon([*handset, (-0.5, -0.5), (-0.58, -0.22)], p.dark)
    p.ellipse(0, 0.3, 0.42, 0.42, SNOW)
    for i in range(8):
        c, s = cos(pi * i / 4), sin(pi * i / 4)
        p.ellipse(0.27 * c, 0.3 + 0.27 * s, 0.07, 0.07, INK, outlined=False)


def guitar(p: Pen) -> None:
    p.line([(0.05, -0.05), (0.74, -0.74)], INK, 0.3)
    p.line([(0.05, -0.05), (0.74, -0.74)], WOOD, 0.18)
    p.polygon([(0.64, -0.86), (0.86, -1.02), (1.02, -0.86), (0.86, -0.64)], p.dark)
    p.ellipse(-0.38, 0.38, 0.6, 0.52, p.colour, tilt=-0.78)
    p.ellipse(0.04, -0.02, 0.42, 0.38, p.colour, tilt=-0.78)
    p.ellipse(-0.32, 0.32, 0.5, 0.4, p.colour, outlined=False, tilt=-0.78)
    p.ellipse(-0.14, 0.14, 0.2, 0.2, INK, outlined=False)
    p.line([(-0.62, 0.42), (-0.42, 0.62)], INK, 0.12)
    p.line([(-0.52, 0.52), (0.84, -0.84)], SNOW, 0.05)


def heart(p: Pen) -> None:
    turns = [2 * pi * i / 40 for i in range(40)]
    curve = [(16 * sin(t) ** 3 / 17, -(13 * cos(t) - 5 * cos(2 * t) - 2 * cos(3 * t) - cos(4 * t)) / 17) for t in turns]
    p.polygon(curve, p.colour)
    p.ellipse(-0.42, -0.34, 0.15, 0.22, p.light, outlined=False, tilt=0.5)
    p.line([(-0.62, 0.06), (-0.26, 0.06), (-0.12, -0.24), (0.08, 0.36), (0.22, 0.06), (0.6, 0.06)], SNOW, 0.1)


def fire(p: Pen) -> None:
    p.line([(-0.75, 0.92), (0.75, 0.66)], WOOD, 0.26)
    p.line([(0.75, 0.92), (-0.75, 0.66)], WOOD, 0.26)
    flame = [(0, -1), (0.26, -0.55), (0.42, -0.72), (0.66, -0.1), (0.7, 0.3), (0.45, 0.7), (-0.45, 0.7), (-0.7, 0.3)]
    p.polygon([*flame, (-0.62, -0.15), (-0.44, -0.5), (-0.3, -0.25)], p.colour)
    p.polygon([(0.05, -0.35), (0.36, 0.2), (0.26, 0.62), (-0.26, 0.62), (-0.38, 0.25), (-0.18, 0.1)], p.light, outlined=False)


def _cloud(p: Pen, v: float, fill: RGB) -> None:
    p.ellipse(-0.5, v, 0.42, 0.34, fill)
    p.ellipse(0.52, v, 0.42, 0.32, fill)
    p.ellipse(0.02, v - 0.2, 0.5, 0.46, fill)
    p.polygon([(-0.6, v), (0.6, v), (0.6, v + 0.3), (-0.6, v + 0.3)], fill, outlined=False)
    p.ellipse(-0.3, v, 0.4, 0.28, fill, outlined=False)
    p.ellipse(0.3, v, 0.4, 0.28, fill, outlined=False)


def rain(p: Pen) -> None:
    for u, v in ((-0.6, 0.3), (-0.12, 0.3), (0.36, 0.3), (-0.36, 0.72), (0.12, 0.72), (0.6, 0.72)):
        p.line([(u + 0.1, v), (u - 0.06, v + 0.28)], SKY, 0.15)
    _cloud(p, -0.3, p.colour)


def thunder(p: Pen) -> None:
    bolt = [(0.2, -0.5), (-0.5, 0.3), (-0.08, 0.3), (-0.36, 1.02), (0.56, 0.06), (0.1, 0.06), (0.5, -0.5)]
    p.polygon(bolt, p.colour)
    _cloud(p, -0.55, (92, 92, 112))


def wave(p: Pen) -> None:
    crest = [(-1, 0.85), (-1, 0.3), (-0.7, -0.2), (-0.25, -0.65), (0.3, -0.7), (0.7, -0.4), (0.82, 0.0), (0.68, 0.12)]
    curl = [(0.55, -0.12), (0.3, -0.28), (0.05, -0.15), (0.0, 0.2), (0.25, 0.5), (1, 0.6), (1, 0.85)]
    p.polygon([*crest, *curl], p.colour)
    p.line([(-0.75, 0.0), (-0.3, -0.52), (0.3, -0.58), (0.66, -0.28)], SNOW, 0.17)
    p.line([(-0.82, 0.5), (-0.45, 0.1), (-0.3, 0.4), (0.05, 0.65), (0.7, 0.72)], p.light, 0.1)
    p.ellipse(0.78, 0.1, 0.13, 0.11, SNOW, outlined=False)
    p.ellipse(0.56, 0.04, 0.1, 0.09, SNOW, outlined=False)


def car(p: Pen) -> None:
    p.polygon([(-0.55, -0.05), (-0.3, -0.55), (0.32, -0.55), (0.6, -0.05)], p.colour)
    p.polygon([(-1, 0.0), (-0.9, -0.08), (0.85, -0.08), (1, 0.12), (1, 0.48), (-1, 0.48)], p.colour)
    p.polygon([(-0.4, -0.08), (-0.22, -0.42), (-0.02, -0.42), (-0.02, -0.08)], (205, 232, 250), outlined=False)
    p.polygon([(0.08, -0.08), (0.08, -0.42), (0.26, -0.42), (0.45, -0.08)], (205, 232, 250), outlined=False)
    p.ellipse(0.92, 0.18, 0.09, 0.1, GOLD, outlined=False)
    for u in (-0.52, 0.54):
        p.ellipse(u, 0.46, 0.26, 0.26, (60, 60, 68))
        p.ellipse(u, 0.46, 0.11, 0.11, SNOW, outlined=False)


ICONS: dict[str, Callable[[Pen], None]] = {
    f.__name__: f
    for f in (
        bell,
        drum,
        bird,
        dog,
        cat,
        frog,
        bee,
        clock,
        siren,
        train,
        telephone,
        guitar,
        heart,
        fire,
        rain,
        thunder,
        wave,
        car,
    )
}
