"""Vectors, rotations and poses. Quaternions are x, y, z, w."""

import math
from typing import Any

import numpy as np

from isaacgym.structs.base import Struct, number

VEC3_DTYPE = np.dtype([(name, "f4") for name in "xyz"])
QUAT_DTYPE = np.dtype([(name, "f4") for name in "xyzw"])
TRANSFORM_DTYPE = np.dtype([("p", VEC3_DTYPE), ("r", QUAT_DTYPE)])


def _floats(buffer: Any) -> list[float]:
    """The float32 numbers in anything with a buffer: a row of a structured array too."""
    return np.frombuffer(np.ascontiguousarray(buffer).tobytes(), np.float32).tolist()


class Vec3(Struct):
    """A vector, or a point, in m."""

    x: float = 0.0
    y: float = 0.0
    z: float = 0.0
    dtype = VEC3_DTYPE

    def __init__(self, x: Any = 0.0, y: Any = 0.0, z: Any = 0.0) -> None:
        self.__dict__.update(x=number(x), y=number(y), z=number(z))

    @staticmethod
    def from_buffer(buffer: Any) -> "Vec3":
        return Vec3(*_floats(buffer))

    def __iter__(self):
        return iter((self.x, self.y, self.z))

    def __repr__(self) -> str:
        return f"Vec3({self.x}, {self.y}, {self.z})"

    def __add__(self, other: "Vec3") -> "Vec3":
        return Vec3(self.x + other.x, self.y + other.y, self.z + other.z)

    def __sub__(self, other: "Vec3") -> "Vec3":
        return Vec3(self.x - other.x, self.y - other.y, self.z - other.z)

    def __mul__(self, factor: Any) -> "Vec3":
        return Vec3(*(each * number(factor) for each in self))

    __rmul__ = __mul__

    def __truediv__(self, factor: Any) -> "Vec3":
        return self * (1.0 / number(factor))

    def __neg__(self) -> "Vec3":
        return self * -1.0

    def dot(self, other: "Vec3") -> float:
        return self.x * other.x + self.y * other.y + self.z * other.z

    def cross(self, other: "Vec3") -> "Vec3":
        return Vec3(
            self.y * other.z - self.z * other.y,
            self.z * other.x - self.x * other.z,
            self.x * other.y - self.y * other.x,
        )

    def length_sq(self) -> float:
        return self.dot(self)

    def length(self) -> float:
        return math.sqrt(self.length_sq())

    def normalize(self) -> "Vec3":
        """The unit vector of the same direction; of a zero vector a zero vector."""
        return self / (self.length() or 1.0)


class Quat(Struct):
    """A rotation as a unit quaternion x, y, z, w."""

    x: float = 0.0
    y: float = 0.0
    z: float = 0.0
    w: float = 1.0
    dtype = QUAT_DTYPE

    def __init__(self, x: Any = 0.0, y: Any = 0.0, z: Any = 0.0, w: Any = 1.0) -> None:
        self.__dict__.update(x=number(x), y=number(y), z=number(z), w=number(w))

    @staticmethod
    def from_buffer(buffer: Any) -> "Quat":
        return Quat(*_floats(buffer))

    @staticmethod
    def from_axis_angle(axis: Vec3, angle: Any) -> "Quat":
        """A turn by an angle [rad] about an axis of any length."""
        half = 0.5 * number(angle)
        axis = axis.normalize() * math.sin(half)
        return Quat(axis.x, axis.y, axis.z, math.cos(half))

    @staticmethod
    def from_euler_zyx(roll: Any, pitch: Any, yaw: Any) -> "Quat":
        """Turns [rad] about x, then y, then z, all of the fixed frame (about z, y', x'' of the turning one)."""
        x, y, z = Vec3(1.0), Vec3(0.0, 1.0), Vec3(0.0, 0.0, 1.0)
        turn = Quat.from_axis_angle
        return turn(z, yaw) * turn(y, pitch) * turn(x, roll)

    def to_euler_zyx(self) -> tuple[float, float, float]:
        """Roll, pitch and yaw [rad] that :meth:`from_euler_zyx` makes this of."""
        x, y, z, w = self.normalize()
        roll = math.atan2(2.0 * (w * x + y * z), 1.0 - 2.0 * (x * x + y * y))
        pitch = math.asin(max(-1.0, min(1.0, 2.0 * (w * y - z * x))))
        yaw = math.atan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))
        return roll, pitch, yaw

    def __iter__(self):
        return iter((self.x, self.y, self.z, self.w))

    def __repr__(self) -> str:
        return f"Quat({self.x}, {self.y}, {self.z}, {self.w})"

    def __mul__(self, other: "Quat") -> "Quat":
        """This turn after the other one."""
        a, b = Vec3(self.x, self.y, self.z), Vec3(other.x, other.y, other.z)
        axis = b * self.w + a * other.w + a.cross(b)
        return Quat(axis.x, axis.y, axis.z, self.w * other.w - a.dot(b))

    def inverse(self) -> "Quat":
        return Quat(-self.x, -self.y, -self.z, self.w)

    def normalize(self) -> "Quat":
        length = math.sqrt(sum(each * each for each in self)) or 1.0
        return Quat(*(each / length for each in self))

    def rotate(self, vector: Vec3) -> Vec3:
        axis = Vec3(self.x, self.y, self.z)
        twice = axis.cross(vector) * 2.0
        return vector + twice * self.w + axis.cross(twice)


class Transform(Struct):
    """A pose: position ``p`` [m] and rotation ``r``."""

    p: Vec3 = Vec3()
    r: Quat = Quat()
    dtype = TRANSFORM_DTYPE

    def __init__(self, p: Vec3 | None = None, r: Quat | None = None) -> None:
        super().__init__()
        if p is not None:
            self.p = p
        if r is not None:
            self.r = r

    @staticmethod
    def from_buffer(buffer: Any) -> "Transform":
        values = _floats(buffer)
        return Transform(Vec3(*values[:3]), Quat(*values[3:]))

    def __mul__(self, other: "Transform") -> "Transform":
        """The other pose, given in this pose's frame, in the frame that this one is given in."""
        return Transform(self.transform_point(other.p), self.r * other.r)

    def inverse(self) -> "Transform":
        back = self.r.inverse()
        return Transform(-back.rotate(self.p), back)

    def transform_point(self, point: Vec3) -> Vec3:
        return self.r.rotate(point) + self.p

    def transform_vector(self, vector: Vec3) -> Vec3:
        return self.r.rotate(vector)

    def transform_points(self, points: np.ndarray) -> np.ndarray:
        """Of points as an array of ``Vec3.dtype``."""
        return np.array([tuple(self.transform_point(Vec3(*point))) for point in points], VEC3_DTYPE)

    def transform_vectors(self, vectors: np.ndarray) -> np.ndarray:
        """Of vectors as an array of ``Vec3.dtype``."""
        return np.array([tuple(self.transform_vector(Vec3(*vector))) for vector in vectors], VEC3_DTYPE)


class Mat33(Struct):
    """A matrix by its rows ``x``, ``y`` and ``z``, as inertia tensors are given."""

    x: Vec3 = Vec3()
    y: Vec3 = Vec3()
    z: Vec3 = Vec3()

    def __init__(self, x: Vec3 | None = None, y: Vec3 | None = None, z: Vec3 | None = None) -> None:
        super().__init__()
        for name, row in (("x", x), ("y", y), ("z", z)):
            if row is not None:
                setattr(self, name, row)

    def __iter__(self):
        return iter((self.x, self.y, self.z))
