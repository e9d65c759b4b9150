"""``Gym``'s methods on assets."""

import copy

import numpy as np

from isaacgym.asset import Asset, load_asset
from isaacgym.structs import AssetOptions, ForceSensor, ForceSensorProperties, GymError, RigidShapeProperties, Transform
from isaacgym.worlds import expect_count

NOT_FOUND = -1


def place(names: list[str], name: str) -> int:
    """Where a name is in a list, or -1."""
    return names.index(name) if name in names else NOT_FOUND


class AssetCalls:
    """Loading, counts, names and properties."""

    def load_asset(self, sim, rootpath: str, filename: str, options: AssetOptions | None = None) -> Asset:
        return load_asset(rootpath, filename, options)

    def get_asset_dof_count(self, asset: Asset) -> int:
        return len(asset.dof_names)

    def get_asset_joint_count(self, asset: Asset) -> int:
        return len(asset.joint_names)

    def get_asset_rigid_body_count(self, asset: Asset) -> int:
        return len(asset.body_names)

    def get_asset_rigid_shape_count(self, asset: Asset) -> int:
        return len(asset.shape_bodies)

    def get_asset_dof_names(self, asset: Asset) -> list[str]:
        return list(asset.dof_names)

    def get_asset_joint_names(self, asset: Asset) -> list[str]:
        return list(asset.joint_names)

    def get_asset_rigid_body_names(self, asset: Asset) -> list[str]:
        return list(asset.body_names)

    def get_asset_dof_name(self, asset: Asset, index: int) -> str:
        return asset.dof_names[index]

    def get_asset_rigid_body_name(self, asset: Asset, index: int) -> str:
        return asset.body_names[index]

    def get_asset_dof_dict(self, asset: Asset) -> dict[str, int]:
        return {name: index for index, name in enumerate(asset.dof_names)}

    def get_asset_joint_dict(self, asset: Asset) -> dict[str, int]:
        return {name: index for index, name in enumerate(asset.joint_names)}

    def get_asset_rigid_body_dict(self, asset: Asset) -> dict[str, int]:
        return {name: index for index, name in enumerate(asset.body_names)}

    def find_asset_dof_index(self, asset: Asset, name: str) -> int:
        return place(asset.dof_names, name)

    def find_asset_rigid_body_index(self, asset: Asset, name: str) -> int:
        return place(asset.body_names, name)

    def get_asset_dof_properties(self, asset: Asset) -> np.ndarray:
        return asset.dof_properties.copy()

    def get_asset_rigid_shape_properties(self, asset: Asset) -> list[RigidShapeProperties]:
        return [copy.copy(each) for each in asset.shape_properties]

    def set_asset_rigid_shape_properties(self, asset: Asset, shape_props: list[RigidShapeProperties]) -> bool:
        """For actors that are created from now on."""
        expect_count("rigid shape properties", shape_props, len(asset.shape_bodies))
        asset.shape_properties = [copy.copy(each) for each in shape_props]
        return True

    def create_asset_force_sensor(
        self, asset: Asset, body_idx: int, local_pose: Transform, props: ForceSensorProperties | None = None
    ) -> int:
        """Its reading is the wrench of all contacts of the body, about the sensor's origin."""
        if not 0 <= body_idx < len(asset.body_names):
            raise GymError(
                f"a force sensor on body {body_idx}; asset {asset.name!r} has {len(asset.body_names)} bodies"
            )
        props = ForceSensorProperties() if props is None else props
        asset.force_sensors.append(ForceSensor(body_idx, copy.deepcopy(local_pose), copy.deepcopy(props)))
        return len(asset.force_sensors) - 1

    def get_asset_force_sensor_count(self, asset: Asset) -> int:
        return len(asset.force_sensors)
