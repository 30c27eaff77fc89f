"""The page: Gradio components, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from qvggt.data.photos import image_suffixes
from qvggt.errors import QvggtError
from qvggt.eval.demo.workshop import Made, Workshop, describe, differences
from qvggt.eval.html.text import environment
from qvggt.eval.reconstruction.masks import MASKS

NOBODY = "(none)"
HOST = "127.0.0.1"
HEIGHT = 480  # pixels of a viewer
BACKGROUND = (0.13, 0.14, 0.16, 1.0)
FONTS = ["system-ui", "sans-serif"]  # Gradio's own would be fetched from the network
MONO = ["ui-monospace", "monospace"]
INTRO = """# qvggt
Drop overlapping photographs of one scene, or take an example, choose a network, and look at cameras and points. Choose
a second network to compare, say a quantized file with its float model. Nothing leaves this machine."""
ALL = "all alike"


def import_gradio() -> Any:
    """The gradio module, with its analytics off; QvggtError names what to install."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import gradio
    except ImportError as error:
        raise QvggtError("the demo page needs Gradio: pip install '.[demo]' in the clone") from error
    return gradio


def build_page(workshop: Workshop) -> Any:
    """The gr.Blocks of the page; its functions run one at a time."""
    gr = import_gradio()
    choices = list(workshop.choices)
    limits = workshop.limits

    def oops(error: Exception, images: Sequence[Path] = ()) -> Any:
        """A line on the page and none in the terminal, whatever went wrong with what a visitor gave."""
        return gr.Error(workshop.words(error, images), duration=None, print_exception=False)

    def run(files: list[str] | None, first: str, second: str, percentile: float, masks: list[str]) -> tuple[Any, ...]:
        images = [Path(file) for file in files or []]
        try:
            names = [first] if second in (NOBODY, first) else [first, second]
            made = workshop.make(names, images, percentile, masks)
        except Exception as error:
            raise oops(error, images) from error
        one, other = [(str(m.glb), str(m.colmap)) for m in made] + [(None, None)] * (2 - len(made))
        return (
            one[0],
            other[0],
            gr.update(value=table(made), visible=True),
            *(gr.update(value=file, interactive=True) for file in one),
            *(gr.update(value=file, visible=file is not None) for file in other),
            workshop.key(made),
            gr.update(choices=[ALL, *(photo.name for photo in made[0].result.photos)], value=ALL, visible=True),
        )

    def show(key: str | None, percentile: float, camera: str) -> tuple[Any, ...]:
        """Again, with other points dropped or another camera chosen; nothing is computed again but the files."""
        if key is None:
            return (gr.skip(),) * 6
        try:
            names = [photo.name for photo in workshop.made[key][0].result.photos] if key in workshop.made else []
            chosen = names.index(camera) if camera in names else None
            files = [str(path) for path in workshop.show(key, percentile, chosen)]
        except Exception as error:
            raise oops(error) from error
        second = files[1] if len(files) > 1 else None
        return files[0], second, files[0], second, gr.update(selected_index=chosen), table(workshop.made[key])

    def offer(name: str) -> list[str]:
        return [str(path) for path in workshop.examples()[name]]

    def pictures(files: list[str] | None) -> tuple[Any, ...]:
        return gr.update(value=[(file, Path(file).name) for file in files or []], visible=bool(files)), None

    def choose(key: str | None, event: Any) -> Any:
        """The name of the picture's camera."""
        made = workshop.made.get(key or "")
        return gr.skip() if made is None else made[0].result.photos[event.index].name

    choose.__annotations__["event"] = gr.SelectData  # by which Gradio knows what to hand over; it is no import of ours

    with gr.Blocks(title="qvggt", analytics_enabled=False, delete_cache=(600, 3600), fill_width=True) as page:
        gr.Markdown(INTRO)
        key = gr.State(None)
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                files = gr.File(
                    label=f"Images (at most {limits.images}, {limits.megabytes} MB each)",
                    file_count="multiple",
                    file_types=list(image_suffixes()),
                    height=170,
                    elem_id="images",
                )
                with gr.Row():
                    examples = [
                        (gr.Button(f"Example: {name}", size="sm", elem_id=f"example-{name.lower()}"), name)
                        for name in workshop.examples()
                    ]
                first = gr.Dropdown(choices, value=choices[0], label="Network", elem_id="first")
                second = gr.Dropdown(
                    [NOBODY, *choices],
                    value=choices[1] if len(choices) > 1 else NOBODY,
                    label="Compare with",
                    elem_id="second",
                )
                percentile = gr.Slider(
                    0, 95, value=25, step=1, label="Drop the least confident, % (at once)", elem_id="percentile"
                )
                masks = gr.CheckboxGroup(
                    list(MASKS), label="Leave out", info="sky: a rule of thumb by colour, not a segmentation"
                )
                button = gr.Button("Reconstruct", variant="primary", elem_id="go")
            with gr.Column(scale=3):
                with gr.Row():
                    shown = [_viewer(gr, "First network", "view-a"), _viewer(gr, "Second network", "view-b")]
                gallery = gr.Gallery(
                    label="Pictures: a click shows the camera", columns=8, height=190, visible=False,
                    allow_preview=False, interactive=False, object_fit="contain", elem_id="pictures",
                )  # fmt: skip
                camera = gr.Radio(
                    [ALL], value=ALL, label="Camera that stands out, white", visible=False, elem_id="camera"
                )
                report = gr.HTML(visible=False, elem_id="report")
                with gr.Row():
                    downloads = [
                        gr.DownloadButton("GLB", interactive=False, elem_id="glb-a"),
                        gr.DownloadButton("COLMAP (zip)", interactive=False, elem_id="colmap-a"),
                        gr.DownloadButton("GLB, second", visible=False, elem_id="glb-b"),
                        gr.DownloadButton("COLMAP, second", visible=False, elem_id="colmap-b"),
                    ]
        button.click(
            run,
            [files, first, second, percentile, masks],
            [*shown, report, *downloads, key, camera],
            concurrency_limit=1,
            api_name=False,
        )
        again = {
            "fn": show, "inputs": [key, percentile, camera], "concurrency_limit": 1, "api_name": False,
            "outputs": [*shown, downloads[0], downloads[2], gallery, report], "show_progress": "minimal",
        }  # fmt: skip
        percentile.release(**again)
        camera.change(**again)
        gallery.select(choose, [key], [camera], api_name=False)
        files.change(pictures, [files], [gallery, key], api_name=False)
        for example, name in examples:
            example.click(partial(offer, name), None, [files], api_name=False)
    return page


def launch(
    page: Any, workshop: Workshop, *, port: int, share: bool = False, wait: bool = True, open_it: bool = False
) -> Any:
    """Serve the page on the loopback address. share: also through Gradio's public tunnel. Returns its local address.

    QvggtError when the port is taken.
    """
    gr = import_gradio()
    try:
        _, address, _ = page.queue(max_size=16).launch(
            server_name=HOST,
            server_port=port,
            share=share,
            inbrowser=open_it,
            prevent_thread_lock=not wait,
            max_file_size=workshop.limits.megabytes * 1_000_000,
            allowed_paths=[str(workshop.folder)],
            theme=gr.themes.Default(font=FONTS, font_mono=MONO),
            footer_links=[],
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
            quiet=True,
        )
    except OSError as error:
        raise QvggtError(
            f"port {port}: cannot be used; is another qvggt demo running? choose one with --port"
        ) from error
    return address


def table(made: Sequence[Made]) -> str:
    """HTML: what was made, and how far the second is from the first."""
    rows = zip(*(describe(one) for one in made), strict=True)
    facts = [(pairs[0][0], [value for _, value in pairs]) for pairs in rows]
    doubts = [(one.name, doubt) for one in made for doubt in one.result.facts["warnings"]]
    template = environment("qvggt.eval.demo").get_template("made.html.jinja")
    changes = differences(*made) if len(made) > 1 else []
    return template.render(names=[one.name for one in made], facts=facts, differences=changes, doubts=doubts)


def _viewer(gr: Any, label: str, name: str) -> Any:
    return gr.Model3D(label=label, height=HEIGHT, clear_color=BACKGROUND, elem_id=name, interactive=False)
