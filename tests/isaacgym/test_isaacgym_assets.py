"""Robots read from URDF: order, masses, shapes, joints; against closed forms and MuJoCo's own URDF reader."""

# MuJoCo's bindings come without types.
# pyright: reportAttributeAccessIssue=false

import math
import struct
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from isaacgym.asset import Asset, load_asset
from isaacgym.structs import AssetOptions, GymError

PAIRS = ("xx", "yy", "zz", "xy", "xz", "yz")
FREE = float(np.finfo(np.float32).max)
INERTIAL = '<inertial><mass value="1"/><inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial>'
LIMIT = '<limit lower="-1" upper="1" effort="1" velocity="1"/>'


def link(name: str, inside: str = INERTIAL) -> str:
    return f'<link name="{name}">{inside}</link>'


def joint(name: str, parent: str, child: str, kind: str = "revolute", inside: str = LIMIT, extra: str = "") -> str:
    ends = f'<parent link="{parent}"/><child link="{child}"/>'
    return f'<joint name="{name}" type="{kind}" {extra}>{ends}{inside}</joint>'


def collision(geometry: str, origin: str = "") -> str:
    return f"<collision>{origin}<geometry>{geometry}</geometry></collision>"


def origin(position: Any = (0, 0, 0), angles: Any = (0, 0, 0)) -> str:
    return (
        f'<origin xyz="{" ".join(map(repr, map(float, position)))}" rpy="{" ".join(map(repr, map(float, angles)))}"/>'
    )


def read(folder: Path, *parts: str, **options: Any) -> Asset:
    (folder / "robot.urdf").write_text(f'<robot name="robot">{"".join(parts)}</robot>')
    chosen = AssetOptions()
    for name, value in options.items():
        setattr(chosen, name, value)
    return load_asset(str(folder), "robot.urdf", chosen)


def inertia_of(model: mujoco.MjModel, body: int) -> np.ndarray:
    """About the centre of mass, along the axes of the body's frame."""
    axes = np.zeros(9)
    mujoco.mju_quat2Mat(axes, model.body_iquat[body])
    return axes.reshape(3, 3) @ np.diag(model.body_inertia[body]) @ axes.reshape(3, 3).T


def random_robot(rng: np.random.Generator, count: int) -> list[str]:
    """Links l0, l1 ... with real bodies' inertias, each on a random earlier one; about half of the joints are fixed."""
    parts = []
    for index in range(count):
        edges, mass = rng.uniform(0.1, 0.5, 3), rng.uniform(0.1, 2.0)
        turn = Rotation.from_rotvec(rng.normal(size=3)).as_matrix()
        moments = turn @ np.diag(mass / 12 * (np.sum(edges**2) - edges**2)) @ turn.T
        values = " ".join(f'i{key}="{moments["xyz".index(key[0]), "xyz".index(key[1])]}"' for key in PAIRS)
        # MuJoCo's reader leaves out how <inertial> is turned, so that it is not.
        inside = f'{origin(rng.normal(size=3))}<mass value="{mass}"/><inertia {values}/>'
        parts.append(link(f"l{index}", f"<inertial>{inside}</inertial>"))
        if index:
            place, axis = origin(rng.normal(size=3), rng.normal(size=3)), " ".join(map(str, rng.normal(size=3)))
            kind = rng.choice(["fixed", "fixed", "continuous", "prismatic"])
            inside = place + f'<axis xyz="{axis}"/><limit lower="-9" upper="9" effort="1" velocity="1"/>'
            parts.append(joint(f"j{index}", f"l{rng.integers(index)}", f"l{index}", kind, inside))
    return [parts[index] for index in rng.permutation(len(parts))]


def test_bodies_and_dofs_come_depth_first_by_the_names_of_joints(tmp_path: Path, rng: np.random.Generator) -> None:
    parts = [link(name) for name in ("root", "z", "a", "a1", "m", "z2", "Z", "tip")]
    parts += [joint("b_first", "root", "z"), joint("c_second", "root", "a"), joint("x10", "a", "a1")]
    parts += [joint("d_third", "root", "m", "fixed", ""), joint("x2", "z", "z2"), joint("x1", "z", "Z")]
    parts += [joint("a_last", "m", "tip")]
    shuffled = [parts[index] for index in rng.permutation(len(parts))]
    asset = read(tmp_path, *shuffled)
    assert asset.body_names == ["root", "z", "Z", "z2", "a", "a1", "m", "tip"]
    assert asset.dof_names == ["b_first", "x1", "x2", "c_second", "x10", "a_last"]
    model = asset.spec.compile()
    assert [model.body(index).name for index in range(1, model.nbody)] == asset.body_names
    assert [model.joint(index).name for index in range(1, model.njnt)] == asset.dof_names
    assert model.jnt_type[0] == mujoco.mjtJoint.mjJNT_FREE
    # What hung on a merged link is among its new parent's children by its own joint's name.
    merged = read(tmp_path, *shuffled, collapse_fixed_joints=True)
    assert merged.body_names == ["root", "tip", "z", "Z", "z2", "a", "a1"]
    assert merged.dof_names == ["a_last", "b_first", "x1", "x2", "c_second", "x10"]


@pytest.mark.parametrize("collapse", [False, True])
def test_it_moves_as_mujocos_own_reading_of_the_file_does(
    tmp_path: Path, rng: np.random.Generator, collapse: bool
) -> None:
    asset = read(tmp_path, *random_robot(rng, 14), fix_base_link=True, collapse_fixed_joints=collapse)
    model, truth = asset.spec.compile(), mujoco.MjModel.from_xml_path(str(tmp_path / "robot.urdf"))
    assert len(asset.body_names) == (1 + len(asset.dof_names) if collapse else 14)
    data, expected = mujoco.MjData(model), mujoco.MjData(truth)
    order = [truth.joint(name).id for name in asset.dof_names]
    assert len(order) == truth.nv == model.nv > 0
    expected.qpos[:], expected.qvel[:] = rng.normal(size=(2, truth.nv))
    data.qpos[:], data.qvel[:] = expected.qpos[order], expected.qvel[order]
    inertia, expected_inertia = np.zeros((model.nv, model.nv)), np.zeros((model.nv, model.nv))
    for each, state, matrix in ((model, data, inertia), (truth, expected, expected_inertia)):
        mujoco.mj_forward(each, state)
        mujoco.mj_fullM(each, state, matrix)
    np.testing.assert_allclose(inertia, expected_inertia[np.ix_(order, order)], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(data.qfrc_bias, expected.qfrc_bias[order], rtol=1e-6, atol=1e-6)
    for name in (model.body(body).name for body in model.jnt_bodyid):  # it has merged the others
        np.testing.assert_allclose(data.body(name).xpos, expected.body(name).xpos, atol=1e-10)


def test_merged_links_have_the_mass_centre_and_inertia_of_both(tmp_path: Path, rng: np.random.Generator) -> None:
    m, n, d = rng.uniform(0.5, 2.0, 3)
    # Turned by a quarter about z: along the rod's axes its moments are 2, 3 and 4.
    inside = f'<mass value="{n}"/><inertia ixx="3" iyy="2" izz="4" ixy="0" ixz="0" iyz="0"/>'
    rod = f"<inertial>{origin((0, 0, 0.5), (0, 0, math.pi / 2))}{inside}</inertial>"
    ball = f'<inertial><mass value="{m}"/><inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial>'
    fixed = origin((d, 0, 0), (0, math.pi / 2, 0))  # the rod's z is along x: its centre is at d + 0.5
    parts = [
        link("ball", ball),
        link("rod", rod + collision('<sphere radius="0.1"/>', origin((0, 0, 1)))),
    ]
    asset = read(tmp_path, *parts, joint("weld", "ball", "rod", "fixed", fixed), collapse_fixed_joints=True)
    model = asset.spec.compile()
    arm = d + 0.5
    reduced = m * n / (m + n) * arm**2
    assert asset.body_names == ["ball"] and asset.shape_bodies == [0]
    np.testing.assert_allclose(model.body_mass[1], m + n)
    np.testing.assert_allclose(model.body_ipos[1], [n * arm / (m + n), 0, 0], atol=1e-12)
    np.testing.assert_allclose(inertia_of(model, 1), np.diag([1 + 4, 1 + 3 + reduced, 1 + 2 + reduced]), atol=1e-9)
    np.testing.assert_allclose(model.geom("shape0").pos, [d + 1, 0, 0], atol=1e-12)


def test_marked_joints_are_kept(tmp_path: Path) -> None:
    parts = [link("base"), link("foot"), link("plate"), link("sole")]
    parts += [joint("a", "base", "foot", "fixed", "", 'dont_collapse="true"'), joint("b", "foot", "sole", "fixed", "")]
    parts += [joint("c", "base", "plate", "fixed", "", 'dont_collapse="false"')]
    asset = read(tmp_path, *parts, collapse_fixed_joints=True)
    assert asset.body_names == ["base", "foot"]
    assert asset.spec.compile().body_mass[1:].tolist() == [2.0, 2.0]


def test_links_without_mass_stay_bodies(tmp_path: Path) -> None:
    """A dummy root, a sensor's frame, and a link between two joints, which alone needs some mass to move."""
    parts = [link("world", ""), link("trunk"), link("imu", ""), link("between", ""), link("leg")]
    parts += [joint("float", "world", "trunk", "fixed", ""), joint("imu", "trunk", "imu", "fixed", "")]
    parts += [joint("hip_x", "trunk", "between"), joint("hip_y", "between", "leg")]
    asset = read(tmp_path, *parts)
    model = asset.spec.compile()
    assert asset.body_names == ["world", "trunk", "between", "leg", "imu"]
    np.testing.assert_allclose(model.body_mass[1:], [0, 1, 1e-3, 1, 0])
    data = mujoco.MjData(model)
    mujoco.mj_step(model, data)
    np.testing.assert_allclose(data.qacc[:6], [0, 0, -9.81, 0, 0, 0], atol=1e-8)
    merged = read(tmp_path, *parts, collapse_fixed_joints=True)
    assert merged.body_names == ["world", "between", "leg"]
    np.testing.assert_allclose(merged.spec.compile().body_mass[1:], [1, 1e-3, 1])


def write_meshes(folder: Path, corners: np.ndarray) -> list[str]:
    """A tetrahedron in three files, as binary STL, STL of text, and OBJ."""
    faces = [(0, 2, 1), (0, 1, 3), (0, 3, 2), (1, 2, 3)]
    rows = [struct.pack("<12fH", 0, 0, 0, *corners[list(face)].flatten(), 0) for face in faces]
    (folder / "binary.STL").write_bytes(b"\0" * 80 + struct.pack("<I", len(faces)) + b"".join(rows))
    facets = ""
    for face in faces:
        points = "".join(f"      vertex {' '.join(map(str, corners[index]))}\n" for index in face)
        facets += f"  facet normal 0 0 0\n    outer loop\n{points}    endloop\n  endfacet\n"
    (folder / "text.stl").write_text(f"solid tetrahedron\n{facets}endsolid\n")
    points = "".join(f"v {' '.join(map(str, corner))}\n" for corner in corners)
    faces_text = "".join(f"f {' '.join(f'{index + 1}' for index in face)}\n" for face in faces)
    (folder / "mesh.obj").write_text(f"{points}vn 0 0 1\n{faces_text}")
    return ["binary.STL", "text.stl", "mesh.obj"]


def test_density_makes_the_mass_of_links_without(tmp_path: Path, rng: np.random.Generator) -> None:
    a, b, c, r, length, density = rng.uniform(0.1, 1.0, 6)
    files = write_meshes(tmp_path, np.array([(0, 0, 0), (a, 0, 0), (0, b, 0), (0, 0, c)]))
    ball, tube = 4 / 3 * math.pi * r**3, math.pi * r**2 * length
    round_sizes = f'radius="{r}" length="{length}"'
    volumes = {
        f'<box size="{a} {b} {c}"/>': a * b * c,
        f'<sphere radius="{r}"/>': ball,
        f"<cylinder {round_sizes}/>": tube,
        f"<capsule {round_sizes}/>": tube + ball,
        **{f'<mesh filename="{file}" scale="2 3 -0.5"/>': a * b * c / 2 for file in files},
    }
    parts = [link("root", "")] + [link(f"l{index}", collision(shape)) for index, shape in enumerate(volumes)]
    parts += [joint(f"j{index}", "root", f"l{index}") for index in range(len(volumes))]
    model = read(tmp_path, *parts, density=density).spec.compile()
    np.testing.assert_allclose(model.body_mass[2:], density * np.array([*volumes.values()]), rtol=1e-5)
    box = density * a * b * c / 12 * np.diag([b**2 + c**2, a**2 + c**2, a**2 + b**2])
    np.testing.assert_allclose(inertia_of(model, 2), box, rtol=1e-6, atol=1e-12)
    capsules = read(tmp_path, *parts, density=density, replace_cylinder_with_capsule=True).spec.compile()
    np.testing.assert_allclose(capsules.body_mass[4], density * (tube + ball), rtol=1e-6)
    np.testing.assert_allclose(capsules.geom("shape2").size[:2], [r, length / 2])


def test_shapes_override_the_files_inertia_and_centre_of_mass(tmp_path: Path, rng: np.random.Generator) -> None:
    place, angles, edges = rng.normal(size=3), rng.normal(size=3), rng.uniform(0.2, 1.0, 3)
    box = collision(f'<box size="{" ".join(map(str, edges))}"/>', origin(place, angles))
    both = read(tmp_path, link("box", INERTIAL + box), override_inertia=True, override_com=True).spec.compile()
    turn = Rotation.from_euler("xyz", angles).as_matrix()
    expected = turn @ np.diag(np.sum(edges**2) - edges**2) @ turn.T / 12
    np.testing.assert_allclose(both.body_mass[1], 1.0)
    np.testing.assert_allclose(both.body_ipos[1], place, atol=1e-9)
    np.testing.assert_allclose(inertia_of(both, 1), expected, rtol=1e-6, atol=1e-9)
    center = read(tmp_path, link("box", INERTIAL + box), override_com=True).spec.compile()
    np.testing.assert_allclose(center.body_ipos[1], place, atol=1e-9)
    np.testing.assert_allclose(inertia_of(center, 1), np.eye(3), rtol=1e-6)


@pytest.mark.parametrize(("given", "least"), [((0, 0, 0), (0, 0, 0)), ((0.1, 0.2, 1.0), (0.1, 0.2, 1.0))])
def test_inertias_of_no_real_body_are_raised_a_little(tmp_path: Path, given: tuple, least: tuple) -> None:
    xx, yy, zz = given
    inside = (
        f'<inertial><mass value="1"/><inertia ixx="{xx}" iyy="{yy}" izz="{zz}" ixy="0" ixz="0" iyz="0"/></inertial>'
    )
    model = read(tmp_path, link("odd", inside)).spec.compile()
    moments = np.diag(inertia_of(model, 1))
    assert (moments >= least).all() and (moments > 0).all()
    assert moments.max() <= max(zz, 1e-5) + 1e-9
    assert moments[0] + moments[1] == pytest.approx(max(zz, moments[0] + moments[1]))


def test_dof_properties_are_the_files(tmp_path: Path) -> None:
    names = ["root", "bounded", "wheel", "slider", "loose"]
    limit = '<limit lower="-0.5" upper="1.5" effort="20" velocity="3"/><dynamics damping="0.1" friction="0.2"/>'
    parts = [link(name) for name in names]
    parts += [joint("1", "root", "bounded", "revolute", limit), joint("2", "root", "wheel", "continuous", limit)]
    parts += [joint("3", "root", "slider", "prismatic", limit), joint("4", "root", "loose", "revolute", "")]
    asset = read(tmp_path, *parts, armature=0.01, default_dof_drive_mode=3)
    rows = asset.dof_properties
    assert rows["hasLimits"].tolist() == [True, False, True, False]
    np.testing.assert_allclose(rows["lower"], [-0.5, -FREE, -0.5, -FREE])
    np.testing.assert_allclose(rows["upper"], [1.5, FREE, 1.5, FREE])
    np.testing.assert_allclose(rows["effort"], [20, 20, 20, FREE])
    np.testing.assert_allclose(rows["velocity"], [3, 3, 3, FREE])
    np.testing.assert_allclose(rows["damping"], [0.1, 0.1, 0.1, 0.0])
    np.testing.assert_allclose(rows["friction"], [0.2, 0.2, 0.2, 0.0])
    assert rows["driveMode"].tolist() == [3] * 4 and rows["stiffness"].tolist() == [0.0] * 4
    np.testing.assert_allclose(rows["armature"], 0.01)
    model = asset.spec.compile()
    assert model.jnt_limited[1:].tolist() == [1, 0, 1, 0]
    np.testing.assert_allclose(model.jnt_range[[1, 3]], [[-0.5, 1.5]] * 2)
    np.testing.assert_allclose(model.dof_armature[6:], 0.01)
    assert model.jnt_type[3] == mujoco.mjtJoint.mjJNT_SLIDE


def test_without_gravity_a_robot_floats(tmp_path: Path) -> None:
    asset = read(tmp_path, link("a"), link("b"), joint("j", "a", "b"), disable_gravity=True)
    model = asset.spec.compile()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    np.testing.assert_allclose(data.qacc, 0.0, atol=1e-9)


@pytest.mark.parametrize("fix_base_link", [False, True])
def test_neighbours_do_not_collide_and_others_do(tmp_path: Path, fix_base_link: bool) -> None:
    ball = INERTIAL + collision('<sphere radius="0.1"/>')
    parts = [link(name, ball) for name in ("base", "pad", "thigh", "shank", "other")]
    parts += [joint("pad", "base", "pad", "fixed", ""), joint("hip", "base", "thigh"), joint("knee", "thigh", "shank")]
    parts += [joint("other", "pad", "other")]
    asset = read(tmp_path, *parts, fix_base_link=fix_base_link)
    model = asset.spec.compile()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    bodies = model.geom_bodyid[data.contact.geom] - 1
    assert [asset.body_names[body] for body in asset.shape_bodies] == asset.body_names
    found = {frozenset(asset.body_names[body] for body in pair) for pair in bodies}
    pairs = [("base", "shank"), ("pad", "shank"), ("thigh", "other"), ("shank", "other")]
    assert found == set(map(frozenset, pairs))


def test_meshes_are_found_above_the_file_and_in_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meshes, elsewhere = tmp_path / "meshes", tmp_path / "elsewhere" / "hand" / "parts"
    folder = tmp_path / "urdf"
    for each in (meshes, elsewhere, folder):
        each.mkdir(parents=True)
        write_meshes(each, np.eye(4, 3))
    monkeypatch.setenv("ROS_PACKAGE_PATH", str(tmp_path / "elsewhere"))
    names = ["../meshes/text.stl", "package://robot/meshes/mesh.obj", "package://hand/parts/binary.STL", "mesh.obj"]
    missing = '<visual><geometry><mesh filename="nowhere.dae"/></geometry></visual>'
    shapes = "".join(collision(f'<mesh filename="{name}"/>') for name in names)
    asset = read(folder, link("hand", missing + shapes))
    assert asset.shape_bodies == [0] * 4 and len(asset.shape_properties) == 4
    assert all(properties.friction == 1.0 for properties in asset.shape_properties)


ONE = link("base")
BAD_FILES = {
    "no <child>": [ONE, '<joint name="j" type="fixed"><parent link="base"/></joint>'],
    "'gone'": [ONE, joint("j", "base", "gone")],
    "child of two": [ONE, link("a"), link("b"), joint("j", "base", "b"), joint("k", "a", "b")],
    "one root": [ONE, link("b")],
    "floating": [ONE, link("b"), joint("j", "base", "b", "floating")],
    "above its upper": [ONE, link("b"), joint("j", "base", "b", inside='<limit lower="1" upper="0"/>')],
    "length 0": [ONE, link("b"), joint("j", "base", "b", inside='<axis xyz="0 0 0"/>')],
    "finite number": [link("base", '<inertial><mass value="${mass}"/></inertial>')],
    "3 finite numbers": [link("base", collision('<box size="1 2"/>'))],
    "nowhere.stl": [link("base", collision('<mesh filename="package://robot/nowhere.stl"/>'))],
    "neither STL nor OBJ": [link("base", collision('<mesh filename="robot.urdf"/>'))],
    "cone": [link("base", collision("<cone/>"))],
    "cannot be read as XML": ["<link>"],
}


@pytest.mark.parametrize("wanted", BAD_FILES)
def test_what_is_wrong_with_a_file_is_said_in_one_line(tmp_path: Path, wanted: str) -> None:
    with pytest.raises(GymError, match=wanted) as caught:
        read(tmp_path, *BAD_FILES[wanted])
    assert "\n" not in str(caught.value) and "robot.urdf" in str(caught.value)


def test_what_is_not_supported_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(GymError, match="vhacd_enabled"):
        read(tmp_path, ONE, vhacd_enabled=True)
    with pytest.raises(GymError, match=r"no asset file .*gone\.urdf"):
        load_asset(str(tmp_path), "gone.urdf")
    (tmp_path / "robot.usd").touch()
    with pytest.raises(GymError, match=r"\.urdf"):
        load_asset(str(tmp_path), "robot.usd")
    (tmp_path / "flat.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nv 1 1 0\n")
    with pytest.raises(GymError, match=r"flat\.obj is flat"):
        read(tmp_path, link("base", collision('<mesh filename="flat.obj"/>')))
