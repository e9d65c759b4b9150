"""Settings of a simulation, of assets, of ground and of cameras.

Defaults are those that Isaac Gym's documentation and public code name, where they name any. Of what MuJoCo has no use
for, the value is kept and nothing else happens; docs/isaacgym.md says which that is.
"""

from isaacgym.structs.base import Struct
from isaacgym.structs.constants import ContactCollection, MeshNormalMode, UpAxis
from isaacgym.structs.vectors import Transform, Vec3


class PhysXParams(Struct):
    """Settings of the PhysX engine. Kept, so that code that sets them runs, and not used."""

    use_gpu: bool = False
    num_subscenes: int = 0
    num_threads: int = 0
    solver_type: int = 1
    num_position_iterations: int = 4
    num_velocity_iterations: int = 1
    contact_offset: float = 0.02
    rest_offset: float = 0.001
    bounce_threshold_velocity: float = 0.2
    max_depenetration_velocity: float = 100.0
    friction_offset_threshold: float = 0.04
    friction_correlation_distance: float = 0.025
    max_gpu_contact_pairs: int = 1024 * 1024
    default_buffer_size_multiplier: float = 2.0
    contact_collection: ContactCollection = ContactCollection.CC_ALL_SUBSTEPS
    always_use_articulations: bool = False


class FlexParams(Struct):
    """Settings of the Flex engine. Kept, so that code that sets them runs, and not used."""

    solver_type: int = 5
    num_outer_iterations: int = 4
    num_inner_iterations: int = 15
    relaxation: float = 0.75
    warm_start: float = 0.8
    contact_regularization: float = 1e-6
    shape_collision_distance: float = 0.0
    shape_collision_margin: float = 0.0
    deterministic_mode: bool = False
    dynamic_friction: float = 0.0
    static_friction: float = 0.0
    particle_friction: float = 0.0
    friction_mode: int = 2
    geometric_stiffness: float = 1.0
    max_rigid_contacts: int = 0
    max_soft_contacts: int = 0
    return_contacts: bool = True


class MuJoCoParams(Struct):
    """Settings of MuJoCo Warp, which Isaac Gym has none of.

    Attributes:
        nconmax: contacts that an environment has room for; None: as many as the robot is likely to make.
        njmax: rows of constraints that an environment has room for; None likewise.
    """

    nconmax: int | None = None
    njmax: int | None = None


class SimParams(Struct):
    """Settings of a simulation: ``dt`` [s] is one ``simulate``, in ``substeps`` equal parts; gravity in m/s^2."""

    dt: float = 1.0 / 60.0
    substeps: int = 2
    gravity: Vec3 = Vec3(0.0, -9.8, 0.0)
    up_axis: UpAxis = UpAxis.UP_AXIS_Y
    use_gpu_pipeline: bool = False
    num_client_threads: int = 0
    stress_visualization: bool = False
    stress_visualization_min: float = 0.0
    stress_visualization_max: float = 1e5
    enable_actor_creation_warning: bool = True
    physx: PhysXParams = PhysXParams()
    flex: FlexParams = FlexParams()
    mujoco: MuJoCoParams = MuJoCoParams()


class VhacdParams(Struct):
    """Settings of convex decomposition. Kept and not used: a collision mesh is its convex hull."""

    alpha: float = 0.05
    beta: float = 0.05
    concavity: float = 0.0
    convex_hull_approximation: bool = True
    convex_hull_downsampling: int = 4
    max_convex_hulls: int = 64
    max_num_vertices_per_ch: int = 64
    min_volume_per_ch: float = 0.0001
    mode: int = 0
    ocl_acceleration: bool = True
    pca: int = 0
    plane_downsampling: int = 4
    project_hull_vertices: bool = True
    resolution: int = 100000


class AssetOptions(Struct):
    """How an asset is read; density in kg/m^3, ``armature`` in kg m^2, velocities in m/s and rad/s."""

    angular_damping: float = 0.5
    armature: float = 0.0
    collapse_fixed_joints: bool = False
    convex_decomposition_from_submeshes: bool = False
    default_dof_drive_mode: int = 0
    density: float = 1000.0
    disable_gravity: bool = False
    enable_gyroscopic_forces: bool = True
    fix_base_link: bool = False
    flip_visual_attachments: bool = False
    linear_damping: float = 0.0
    max_angular_velocity: float = 64.0
    max_linear_velocity: float = 1000.0
    mesh_normal_mode: MeshNormalMode = MeshNormalMode.FROM_ASSET
    min_particle_mass: float = 1e-12
    override_com: bool = False
    override_inertia: bool = False
    replace_cylinder_with_capsule: bool = False
    slices_per_cylinder: int = 20
    tendon_limit_stiffness: float = 1.0
    thickness: float = 0.02
    use_mesh_materials: bool = False
    use_physx_armature: bool = True
    vhacd_enabled: bool = False
    vhacd_params: VhacdParams = VhacdParams()


class PlaneParams(Struct):
    """Flat ground: the plane ``normal . point + distance = 0``."""

    normal: Vec3 = Vec3(0.0, 1.0, 0.0)
    distance: float = 0.0
    static_friction: float = 1.0
    dynamic_friction: float = 1.0
    restitution: float = 0.0
    segmentation_id: int = 0


class HeightFieldParams(Struct):
    """Ground of height samples: columns along x, rows along y, scales in m."""

    nbRows: int = 0
    nbColumns: int = 0
    row_scale: float = 1.0
    column_scale: float = 1.0
    vertical_scale: float = 1.0
    transform: Transform = Transform()
    static_friction: float = 1.0
    dynamic_friction: float = 1.0
    restitution: float = 0.0
    segmentation_id: int = 0


class TriangleMeshParams(Struct):
    """Ground of triangles."""

    nb_vertices: int = 0
    nb_triangles: int = 0
    transform: Transform = Transform()
    static_friction: float = 1.0
    dynamic_friction: float = 1.0
    restitution: float = 0.0
    segmentation_id: int = 0


class CameraProperties(Struct):
    """What a viewer's or a sensor's camera is like: pixels, degrees, m."""

    width: int = 1600
    height: int = 900
    horizontal_fov: float = 90.0
    near_plane: float = 0.01
    far_plane: float = 2e6
    supersampling_horizontal: int = 1
    supersampling_vertical: int = 1
    use_collision_geometry: bool = False
    enable_tensors: bool = False
