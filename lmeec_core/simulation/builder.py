"""A thin layer over mujoco.MjSpec: materials, textured geometry, bodies without dynamics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmeec_core.simulation.backend import load_mujoco
from lmeec_core.simulation.objects import ObjectSpec
from lmeec_core.simulation.parts import Part, lathe_mesh, rotation

PERSON_GROUPS = (1, 2)
"""Geometry groups of the person: 1 arms and hands, 2 head and torso (hidden from the ego view)."""


class SceneBuilder:
    """Builds and compiles a scene. Poses are set directly; there are no contacts and no gravity."""

    def __init__(self, offscreen: int, multisamples: int, shadow_pixels: int) -> None:
        mujoco = load_mujoco()
        self._mj = mujoco
        self.spec = mujoco.MjSpec()
        self.spec.compiler.degree = True
        self.spec.option.disableflags |= int(
            mujoco.mjtDisableBit.mjDSBL_CONTACT | mujoco.mjtDisableBit.mjDSBL_GRAVITY
        )
        visual = self.spec.visual
        visual.quality.offsamples = multisamples
        visual.quality.shadowsize = shadow_pixels
        visual.quality.numslices, visual.quality.numstacks = 20, 12
        visual.global_.offwidth = visual.global_.offheight = offscreen
        visual.map.znear, visual.map.zfar = 0.015, 10.0
        visual.map.shadowclip, visual.map.shadowscale = 1.5, 0.8
        self.spec.stat.extent, self.spec.stat.center = 1.5, [0, 0, 0.8]
        self._count = 0

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}{self._count}"

    def flat(self, rgb: ArrayLike, specular: float = 0.3, shininess: float = 0.3) -> str:
        """Add a material of a single colour (RGB in [0, 255]); returns its name."""
        colour = np.clip(np.asarray(rgb, float) / 255, 0, 1)
        name = self._name("material")
        self.spec.add_material(
            name=name, rgba=[*colour, 1.0], specular=specular, shininess=shininess
        )
        return name

    def textured(
        self,
        image: NDArray[np.uint8],
        repeat: tuple[float, float] = (1, 1),
        specular: float = 0.3,
        shininess: float = 0.3,
        reflectance: float = 0.0,
        cube: bool = True,
    ) -> str:
        """Add a material with an (n, n, 3) texture; returns its name.

        The texture is repeated on the faces of a cube, or flat (for planes and lathes).
        """
        texture, name = self._name("texture"), self._name("material")
        kind = self._mj.mjtTexture.mjTEXTURE_CUBE if cube else self._mj.mjtTexture.mjTEXTURE_2D
        data = np.ascontiguousarray(np.tile(image, (6, 1, 1)) if cube else image)
        made = self.spec.add_texture(
            name=texture, type=kind, width=data.shape[1], height=data.shape[0], nchannel=3
        )
        made.data = data.tobytes()
        material = self.spec.add_material(
            name=name, texrepeat=list(repeat), specular=specular, shininess=shininess,
            reflectance=reflectance,
        )  # fmt: skip
        material.textures[self._mj.mjtTextureRole.mjTEXROLE_RGB] = texture
        return name

    def body(self, name: str, parent: Any = None, **options: Any) -> Any:
        """Add a body; without a parent it is a mocap body of the world, posed directly."""
        if parent is None:
            return self.spec.worldbody.add_body(name=name, mocap=True, **options)
        return parent.add_body(name=name, **options)

    def geometry(
        self,
        kind: str,
        material: str,
        size: Sequence[float] | NDArray[np.float64],
        position: ArrayLike = (0, 0, 0),
        euler: tuple[float, float, float] | None = None,
        ends: tuple[ArrayLike, ArrayLike] | None = None,
        body: Any = None,
        group: int = 0,
        rotation_matrix: NDArray[np.float64] | None = None,
    ) -> None:
        """Add a geometry: `size` in half lengths (metres), at `position` or between `ends`."""
        options: dict[str, Any] = {}
        if ends is not None:
            options["fromto"] = [*np.asarray(ends[0], float), *np.asarray(ends[1], float)]
        else:
            options["pos"] = np.asarray(position, float)
            if euler is not None and any(euler):
                rotation_matrix = rotation(euler)
            if rotation_matrix is not None:
                quaternion = np.zeros(4)
                self._mj.mju_mat2Quat(quaternion, rotation_matrix.flatten())
                options["quat"] = quaternion
        sizes = [*size, 0.0, 0.0][:3]
        (body or self.spec.worldbody).add_geom(
            type=getattr(self._mj.mjtGeom, f"mjGEOM_{kind.upper()}"), size=sizes,
            material=material, group=group, contype=0, conaffinity=0, mass=1e-3, **options,
        )  # fmt: skip

    def lathe(self, part: Part, material: str, body: Any) -> None:
        """Add a lathed mesh."""
        vertices, coordinates, faces = lathe_mesh(part.profile)
        name = self._name("mesh")
        mesh = self.spec.add_mesh(name=name)
        mesh.uservert = vertices.flatten()
        mesh.usertexcoord = coordinates.flatten()
        mesh.userface = faces.flatten().astype(np.int32)
        mesh.inertia = self._mj.mjtMeshInertia.mjMESH_INERTIA_SHELL
        body.add_geom(
            type=self._mj.mjtGeom.mjGEOM_MESH, meshname=name, material=material, contype=0,
            conaffinity=0, mass=1e-3,
        )  # fmt: skip

    def add_object(self, spec: ObjectSpec, body_name: str) -> None:
        """Add an object as a mocap body with its origin at the bottom centre."""
        body = self.body(body_name)
        materials: dict[tuple[str, bool], str] = {}
        for part in spec.parts:
            turned = part.primitive == "lathe"
            key = (part.paint, turned)
            if key not in materials:
                if part.paint == "body":
                    materials[key] = self.textured(
                        spec.texture(), (1, 1), *spec.gloss, cube=not turned
                    )
                else:
                    shine = (0.9, 0.8) if part.paint == "metal" else spec.gloss
                    materials[key] = self.flat(spec.flat_colour(part.paint), *shine)
            if turned:
                self.lathe(part, materials[key], body)
                continue
            ends = None if part.start is None or part.end is None else (part.start, part.end)
            self.geometry(
                part.primitive, materials[key], part.size, part.position, part.euler, ends, body
            )

    def light(
        self,
        position: ArrayLike,
        direction: ArrayLike,
        diffuse: ArrayLike,
        shadow: bool,
        directional: bool,
        cutoff: float,
    ) -> None:
        """Add a light; `diffuse` is RGB in [0, 1], `cutoff` the angle of a spotlight in degrees."""
        kind = "DIRECTIONAL" if directional else "SPOT"
        self.spec.worldbody.add_light(
            pos=np.asarray(position, float), dir=np.asarray(direction, float),
            diffuse=np.asarray(diffuse, float), specular=[0.3, 0.3, 0.3], castshadow=shadow,
            type=getattr(self._mj.mjtLightType, f"mjLIGHT_{kind}"), cutoff=cutoff, exponent=1.0,
        )  # fmt: skip

    def camera(
        self,
        name: str,
        field_of_view: float,
        position: ArrayLike = (0, 0, 0),
        orientation: NDArray[np.float64] | None = None,
        body: Any = None,
    ) -> None:
        """Add a camera.

        The columns of `orientation` are its right, up and backward axes; `field_of_view` is
        vertical, in degrees.
        """
        quaternion = np.array([1.0, 0, 0, 0])
        if orientation is not None:
            self._mj.mju_mat2Quat(quaternion, orientation.flatten())
        (body or self.spec.worldbody).add_camera(
            name=name, fovy=field_of_view, pos=np.asarray(position, float), quat=quaternion
        )

    def ambience(self, ambient: float, headlight: float, sky: ArrayLike) -> None:
        """Set ambient light, a weak light at the camera, and a uniform sky (RGB in [0, 1])."""
        head = self.spec.visual.headlight
        head.ambient, head.diffuse = [ambient] * 3, [headlight] * 3
        head.specular = [0, 0, 0]
        self.spec.add_texture(
            name="sky", type=self._mj.mjtTexture.mjTEXTURE_SKYBOX, width=32, height=192,
            builtin=self._mj.mjtBuiltin.mjBUILTIN_FLAT, rgb1=np.asarray(sky, float),
            rgb2=np.asarray(sky, float), nchannel=3,
        )  # fmt: skip

    def compile(self) -> Any:
        """Compile the scene to a mujoco.MjModel."""
        return self.spec.compile()
