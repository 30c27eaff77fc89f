"""A reconstruction in viewers of others: Rerun, live or as an .rrd file, and viser in the browser (extra `viewer`)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qvggt.errors import QvggtError
from qvggt.eval.reconstruction.config import Viewer
from qvggt.eval.reconstruction.meshes import pyramid_size
from qvggt.lazy import optional

if TYPE_CHECKING:
    from qvggt.eval.reconstruction.folder import Result

Array = NDArray[Any]

HOST, PORT = "127.0.0.1", 8080
INSTALL = "pip install '.[viewer]' in the clone"
PARTS = 4  # the points of Rerun are as many entities, the most confident first: eyes in its tree switch them
VIEWS = 12  # most images, depth maps and confidence maps side by side
HALF = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # the viewers' pixels have their centre at + 0.5 (see Scene)


def import_rerun() -> Any:
    return optional("rerun", f"Rerun recordings need rerun-sdk: {INSTALL}")


def import_viser() -> Any:
    return optional("viser", f"the viser viewer needs viser: {INSTALL}")


def check_viewer(viewer: Viewer | None) -> None:
    """QvggtError when its library is missing, before any work."""
    if viewer is not None:
        {"rerun": import_rerun, "viser": import_viser}[viewer]()


def show(made: Result, viewer: Viewer, say: Callable[[str], None]) -> None:
    """Open a viewer: Rerun's window is a process of its own, viser's page is served until Ctrl-C."""
    if viewer == "rerun":
        spawn_rerun(made)
        return
    server = serve_viser(made)
    say(f"http://{HOST}:{server.get_port()} on this machine only; Ctrl-C ends it")
    with suppress(KeyboardInterrupt):
        server.sleep_forever()
    with redirect_stdout(StringIO()):
        server.stop()


def write_rrd(path: Path, made: Result) -> None:
    """A Rerun recording with the layout in which it opens: points, cameras with image, depth and confidence."""
    rerun = import_rerun()
    recording = rerun.RecordingStream("qvggt reconstruct")
    recording.save(path, default_blueprint=blueprint(made))
    record(recording, made)
    recording.disconnect()


def spawn_rerun(made: Result) -> None:
    rerun = import_rerun()
    recording = rerun.RecordingStream("qvggt reconstruct")
    try:
        rerun.spawn(recording=recording, default_blueprint=blueprint(made))
    except (RuntimeError, OSError) as error:
        raise QvggtError(
            f"--viewer rerun: its viewer did not start ({error}); write a file with --formats rrd"
        ) from error
    record(recording, made)
    recording.flush()


def camera_path(made: Result, index: int) -> str:
    """Of Rerun, which wants its special characters escaped."""
    return str(import_rerun().new_entity_path(["world", "cameras", f"{index + 1:04d}_{made.photos[index].name}"]))


def record(recording: Any, made: Result) -> None:
    """Log everything, without a time: points by confidence, and per camera a pinhole with its three pictures."""
    rr = import_rerun()
    scene, cloud = made.scene, made.cloud
    height, width = made.frames.size
    recording.log("world", rr.ViewCoordinates.RDF, static=True)
    for part, chosen in enumerate(np.array_split(np.argsort(-cloud.confidence, kind="stable"), PARTS)):
        some = cloud.pick(chosen)
        name = f"world/points/confidence_{part + 1}_of_{PARTS}"
        points = rr.Points3D(some.points, colors=some.colours, radii=rr.Radius.ui_points(1.5))
        recording.log(name, points, rr.AnyValues(confidence=some.confidence), static=True)
    reach = pyramid_size(cloud, scene.extrinsics)
    for index, (e, k) in enumerate(zip(scene.extrinsics, scene.intrinsics, strict=True)):
        path = camera_path(made, index)
        pose = rr.Transform3D(translation=e[:, 3], mat3x3=e[:, :3], relation=rr.TransformRelation.ChildFromParent)
        lens = rr.Pinhole(
            image_from_camera=HALF @ k, width=width, height=height, camera_xyz=rr.ViewCoordinates.RDF,
            image_plane_distance=2 * reach,
        )  # fmt: skip
        recording.log(path, pose, lens, static=True)
        picture = np.ascontiguousarray(made.frames.pixels[index].transpose(1, 2, 0))
        recording.log(f"{path}/image", rr.Image(picture).compress(jpeg_quality=90), static=True)
        if scene.depth is not None:
            recording.log(f"{path}/depth", rr.DepthImage(scene.depth[index], meter=1.0), static=True)
        recording.log(f"{path}/confidence", rr.DepthImage(scene.confidence[index], meter=1.0), static=True)


def blueprint(made: Result) -> Any:
    """The points and cameras on the left; a tab for the images, the depth and the confidence on the right."""
    rrb = import_rerun().blueprint
    count = min(len(made.photos), VIEWS)
    kinds = ["image", *(["depth"] if made.scene.depth is not None else []), "confidence"]
    flat = [f"- {camera_path(made, i)}/{kind}" for i in range(len(made.photos)) for kind in kinds[1:]]
    tabs = []
    for kind in kinds:
        views = [
            rrb.Spatial2DView(
                origin=(path := camera_path(made, i)), contents=[f"+ {path}/{kind}"], name=made.photos[i].name
            )
            for i in range(count)
        ]
        tabs.append(rrb.Grid(*views, name=kind))
    # depth and confidence would become points of their own in three dimensions
    space = rrb.Spatial3DView(origin="world", contents=["+ /world/**", *flat], name="points and cameras")
    return rrb.Blueprint(rrb.Horizontal(space, rrb.Tabs(*tabs), column_shares=[3, 2]), collapse_panels=True)


def serve_viser(made: Result, port: int = PORT) -> Any:
    """A started viser server on the loopback address (the next free port, if that one is taken). A slider drops the
    least confident points; a click on a camera looks through it."""
    viser = import_viser()
    scene, cloud = made.scene, made.cloud
    height, width = made.frames.size
    with redirect_stdout(StringIO()):  # its banner; what it says on stdout is no result of ours
        server = viser.ViserServer(host=HOST, port=port, label="qvggt", verbose=False)
    server.scene.set_up_direction("-y")
    reach = pyramid_size(cloud, scene.extrinsics)
    shown = server.scene.add_point_cloud("/points", cloud.points, cloud.colours, point_size=reach / 15)
    slider = server.gui.add_slider("Drop the least confident, %", 0, 95, 1, 0)
    size = server.gui.add_slider("Size of a point", 0.1, 4.0, 0.1, 1.0)
    frustums = server.gui.add_checkbox("Cameras", True)

    def drop(_: Any) -> None:
        kept = cloud.confidence >= np.percentile(cloud.confidence, slider.value)
        shown.points, shown.colors = cloud.points[kept], cloud.colours[kept]

    def resize(_: Any) -> None:
        shown.point_size = size.value * reach / 15

    cameras = []
    for index, (e, k) in enumerate(zip(scene.extrinsics, scene.intrinsics, strict=True)):
        turn, centre = viser.transforms.SO3.from_matrix(e[:, :3].T).wxyz, -e[:, :3].T @ e[:, 3]
        camera = server.scene.add_camera_frustum(
            f"/cameras/{index + 1:04d} {made.photos[index].name}", 2 * np.arctan(height / 2 / k[1, 1]),
            (width / k[0, 0]) / (height / k[1, 1]), scale=2 * reach, color=(200, 60, 40), wxyz=turn, position=centre,
            image=made.frames.pixels[index].transpose(1, 2, 0),
        )  # fmt: skip
        cameras.append(camera)

        def look_through(event: Any, turn: Any = turn, centre: Any = centre) -> None:
            event.client.camera.wxyz, event.client.camera.position = turn, centre

        camera.on_click(look_through)

    def switch(_: Any) -> None:
        for camera in cameras:
            camera.visible = frustums.value

    slider.on_update(drop)
    size.on_update(resize)
    frustums.on_update(switch)
    return server
