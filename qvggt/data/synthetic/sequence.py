"""One generated scene as a Co3Dv2 sequence folder. Imports neither torch nor the readers: worker processes load it."""

from __future__ import annotations

from pathlib import Path

from qvggt.data.depth_png import write_depth
from qvggt.data.synthetic.render import render
from qvggt.data.synthetic.scene import SceneConfig, sample_scene
from qvggt.files import atomic_directory

QUALITY = 95  # of the JPEG files


def sequence_name(seed: int) -> str:
    """Folder name of the scene of `seed`; zero-padded so that names sort by seed."""
    return f"scene_{seed:09d}"


def image_name(frame: int) -> str:
    """File name inside images/; Co3D counts frames from 1."""
    return f"frame{frame + 1:06d}.jpg"


def depth_name(frame: int) -> str:
    """File name inside depths/."""
    return f"{image_name(frame)}.geometric.png"


def write_sequence(category_dir: Path, config: SceneConfig, seed: int) -> int:
    """Render `seed` into category_dir/<sequence>/{images,depths}; the folder appears complete or not at all."""
    from PIL import Image

    with atomic_directory(category_dir / sequence_name(seed)) as temporary:
        (temporary / "images").mkdir()
        (temporary / "depths").mkdir()
        views = render(sample_scene(config, seed), config)
        for frame, (image, depth) in enumerate(zip(views.images, views.depth, strict=True)):
            # no chroma subsampling: at 70 px it would blur the colour edges that matching lives on
            target = temporary / "images" / image_name(frame)
            Image.fromarray(image).save(target, format="JPEG", quality=QUALITY, subsampling=0)
            write_depth(temporary / "depths" / depth_name(frame), depth)
    return seed
