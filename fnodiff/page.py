"""A page to play with a model, made by gradio (`pip install fnodiff[app]`); `fnodiff app MODEL` shows it."""

import base64
import functools
import html
import io
from collections.abc import Callable
from typing import Any

from fnodiff.model import Model
from fnodiff.playground import Figure, Playground, Sensor, grid_name


def shown(compute: Callable[..., list[Figure]], *values: Any) -> str:
    """Pictures side by side as HTML; or, in their place, what was wrong with the values."""
    try:
        figures = compute(*values)
    except (ValueError, OSError, FloatingPointError) as error:
        return f'<p role="alert">{html.escape(" ".join(str(error).split()))}</p>'
    parts = []
    for caption, picture in figures:
        picture.save(file := io.BytesIO(), "png")
        data, text = base64.b64encode(file.getvalue()).decode(), html.escape(caption)
        style = "width:100%;image-rendering:pixelated"
        image = f'<img alt="{text}" style="{style}" src="data:image/png;base64,{data}">'
        place = "margin:0;flex:1 1 130px;max-width:300px"
        parts.append(f'<figure style="{place}">{image}<figcaption>{text}</figcaption></figure>')
    return f'<div style="display:flex;flex-wrap:wrap;gap:12px">{"".join(parts)}</div>'


def build(model: Model, name: str = "a model") -> Any:
    """The page, a `gradio.Blocks`; its tabs are those that the model can serve.

    Args:
        model: As for `Playground`.
        name: For its heading.

    Raises:
        ValueError: If the page cannot show such a model.
        ImportError: If gradio is not installed.
    """
    try:
        import gradio as gr
    except ImportError as error:
        raise ImportError("no gradio: pip install fnodiff[app]") from error
    play = Playground(model.eval())
    one, names = (
        {"concurrency_id": "model", "concurrency_limit": 1, "trigger_mode": "always_last"},
        model.condition_names,
    )
    units = model.condition_normalization.get("condition")
    usual = units.mean if units is not None and isinstance(units.mean, tuple) else [0.0] * len(names)
    channels = [(f"channel {i}", i) for i in range(model.channels)]
    several = len(channels) > 1 and not play.pictures

    def seed_slider(label: str) -> Any:
        return gr.Slider(0, 999, 0, step=1, label=label)

    with gr.Blocks(title="fnodiff", analytics_enabled=False) as page:
        grids = ", ".join(grid_name(shape) for shape in model.training_shapes) or "no grid"
        gr.Markdown(f"## {name}\nTrained on {grids}. One seed is one function on every grid.")
        with gr.Row(visible=bool(play.classes or names or several)):
            channel = gr.Dropdown(channels, value=0, label="Shown", visible=several)
            guidance = gr.Slider(0, 5, 1, step=0.1, label="Guidance, 1 for none", visible=bool(play.classes or names))
            labels = [("no class", -1), *((f"class {i}", i) for i in range(play.classes))]
            label = gr.Dropdown(labels, value=min(0, play.classes - 1), label="Class", visible=play.classes > 0)
            numbers = [gr.Number(mean, label=name) for mean, name in zip(usual, names, strict=True)]
        asked = [channel, guidance, label, *numbers]

        with gr.Tab("Resolutions"):
            with gr.Row():
                seed = seed_slider("Seed")
                size = gr.Slider(play.sizes[0], 4 * play.sizes[-1], 2 * play.sizes[-1], step=1, label="Size")
            moved = [part.change for part in (seed, size, *asked)]
            show = functools.partial(shown, play.resolutions)
            gr.on(
                [page.load, *moved], show, [seed, size, *asked], gr.HTML(elem_id="resolutions", min_height=200), **one
            )

        if play.pictures:
            with gr.Tab("Upscale"):
                with gr.Row():
                    picture = gr.Image(type="filepath", sources=["upload", "clipboard"], height=260, label="Picture")
                    with gr.Column():
                        start = gr.Dropdown(play.sizes, value=play.sizes[-1], label="Averaged to")
                        sizes = [k * play.sizes[-1] for k in (1, 2, 3, 4)]
                        finer = gr.Dropdown(sizes, value=sizes[1], label="Upscaled to")
                        first, many = seed_slider("First seed"), gr.Slider(1, 8, 4, step=1, label="Samples")
                go = gr.Button("Draw samples", variant="primary")
                inputs = [picture, start, finer, first, many, *asked]
                show = functools.partial(shown, play.upscaled)
                gr.on([go.click, picture.upload], show, inputs, gr.HTML(elem_id="upscaled", min_height=200), **one)

        with gr.Tab("Sensors"):
            gr.Markdown(
                "Click to place a sensor, again to take it away. Sensors measure this sample; what fits them is drawn."
            )
            sensors = gr.State([])
            with gr.Row():
                truth = gr.Image(
                    interactive=False, format="png", buttons=[], elem_id="truth", show_label=False, height=390
                )
                with gr.Column():
                    measured_seed = seed_slider("Seed of the sample that is measured")
                    places = gr.Dropdown(play.sizes, value=play.sizes[len(play.sizes) // 2], label="Size")
                    error = gr.Slider(0.01, 1, 0.05, step=0.01, label="Error, in standard deviations of the data")
                    measured = gr.Dropdown([("all", -1), *channels], value=-1, label="Measured", visible=several)
                    clear = gr.Button("Take all away")
            out = gr.HTML(elem_id="posterior", min_height=200)

            def place(now: list[Sensor], size: int, event: gr.SelectData) -> list[Sensor]:
                return play.toggled(now, event.index, size)

            truth.select(place, [sensors, places], sensors, trigger_mode="multiple", concurrency_limit=1)
            clear.click(list, None, sensors)
            moved = [part.change for part in (sensors, measured_seed, places, *asked)]
            gr.on([page.load, *moved], play.truth, [sensors, measured_seed, places, *asked], truth, **one)
            inputs = [sensors, measured_seed, places, error, measured, *asked]
            show = functools.partial(shown, play.posterior)
            gr.on([error.change, measured.change, *moved], show, inputs, out, **one)
    return page


def serve(model: Model, name: str = "a model", **options: Any) -> Any:
    """Show the page until it is stopped; options are those of gradio's `launch`, such as server_port=7860."""
    page = build(model, name)
    import gradio as gr

    # Fonts of the machine: the theme's own would come over the network.
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return page.launch(theme=theme, footer_links=[], **options)
