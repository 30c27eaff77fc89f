"""The page: Gradio components, and nothing else."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qvggt.data.photos import IMAGE_SUFFIXES
from qvggt.errors import QvggtError
from qvggt.eval.demo.workshop import Made, Workshop, describe, differences
from qvggt.eval.reconstruction.masks import MASKS

NOBODY = "(none)"
HOST = "127.0.0.1"
HEIGHT = 480  # pixels of a viewer
BACKGROUND = (0.13, 0.14, 0.16, 1.0)
FONTS = ["system-ui", "sans-serif"]  # Gradio's own would be fetched from the network
MONO = ["ui-monospace", "monospace"]
INTRO = """# qvggt
Drop overlapping photographs of one scene, choose a network, and look at cameras and points. Choose a second network to
compare, say a quantized file with its float model. Nothing leaves this machine."""


def import_gradio() -> Any:
    """The gradio module, with its analytics off; QvggtError names what to install."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import gradio
    except ImportError as error:
        raise QvggtError("the demo page needs Gradio: pip install 'qvggt[demo]'") from error
    return gradio


def build_page(workshop: Workshop) -> Any:
    """The gr.Blocks of the page; its functions run one at a time."""
    gr = import_gradio()
    names = list(workshop.choices)
    limits = workshop.limits

    def run(files: list[str] | None, first: str, second: str, percentile: float, masks: list[str]) -> tuple[Any, ...]:
        images = [Path(file) for file in files or []]
        try:
            made = workshop.make(_chosen(first, second), images, percentile, masks)
        except QvggtError as error:
            raise gr.Error(str(error), duration=None) from error
        one, other = made[0], made[1] if len(made) > 1 else None
        return (
            str(one.glb),
            None if other is None else str(other.glb),
            gr.update(value=table(made), visible=True),
            gr.update(value=str(one.glb), interactive=True),
            gr.update(value=str(one.colmap), interactive=True),
            gr.update(value=None if other is None else str(other.glb), visible=other is not None),
            gr.update(value=None if other is None else str(other.colmap), visible=other is not None),
        )

    with gr.Blocks(title="qvggt", analytics_enabled=False, delete_cache=(600, 3600), fill_width=True) as page:
        gr.Markdown(INTRO)
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                files = gr.File(
                    label=f"Images (at most {limits.images}, {limits.megabytes} MB each)",
                    file_count="multiple",
                    file_types=list(IMAGE_SUFFIXES),
                    height=170,
                    elem_id="images",
                )
                first = gr.Dropdown(names, value=names[0], label="Network", elem_id="first")
                second = gr.Dropdown(
                    [NOBODY, *names],
                    value=names[1] if len(names) > 1 else NOBODY,
                    label="Compare with",
                    elem_id="second",
                )
                percentile = gr.Slider(
                    0, 95, value=25, step=1, label="Drop the least confident, %", elem_id="percentile"
                )
                masks = gr.CheckboxGroup(
                    list(MASKS), label="Leave out", info="sky: a rule of thumb by colour, not a segmentation"
                )
                button = gr.Button("Reconstruct", variant="primary", elem_id="go")
            with gr.Column(scale=3):
                with gr.Row():
                    shown = [_viewer(gr, "First network", "view-a"), _viewer(gr, "Second network", "view-b")]
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
            [*shown, report, *downloads],
            concurrency_limit=1,
            api_name=False,
        )
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
            f"port {port}: cannot be used; is another qvggt-demo running? choose one with --port"
        ) from error
    return address


def table(made: Sequence[Made]) -> str:
    """HTML: what was made, and how far the second is from the first."""
    columns = [dict(describe(one)) for one in made]
    head = "".join(f"<th>{html.escape(one.name)}</th>" for one in made)
    body = "".join(
        f"<tr><td>{html.escape(row)}</td>{''.join(f'<td>{html.escape(c[row])}</td>' for c in columns)}</tr>"
        for row in columns[0]
    )
    text = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"
    if len(made) > 1:
        rows = "".join(
            f"<tr><td>{html.escape(what)}</td><td>{html.escape(value)}</td></tr>" for what, value in differences(*made)
        )
        title = f"{html.escape(made[1].name)} against {html.escape(made[0].name)}"
        text += f"<table><thead><tr><th>{title}</th><th></th></tr></thead><tbody>{rows}</tbody></table>"
    return f'<div style="display: flex; flex-wrap: wrap; gap: 2em">{text}</div>'


def _viewer(gr: Any, label: str, name: str) -> Any:
    return gr.Model3D(label=label, height=HEIGHT, clear_color=BACKGROUND, elem_id=name, interactive=False)


def _chosen(first: str, second: str) -> list[str]:
    return [first] if second in (NOBODY, first) else [first, second]
