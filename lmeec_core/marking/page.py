"""The page: cameras side by side, a timeline, the objects and their prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from nicegui import events, run, ui

from lmeec_core.errors import InputError
from lmeec_core.marking.drawing import NEGATIVE, POSITIVE, box_svg, css, prompts_svg
from lmeec_core.marking.editing import Editor, is_box
from lmeec_core.marking.source import MarkSource, Seen, View
from lmeec_core.overlay import Colours
from lmeec_core.prompts import Prompt

REFRESH = 0.1
"""Seconds between two updates."""
HELP = "Click: on the object. Shift-click or right-click: not on it. Drag: a box around it."
KEYS = "Keys: left and right arrow: previous and next frame. Ctrl+Z: undo."


@dataclass
class _Card:
    """The elements that show one camera."""

    picture: ui.interactive_image
    below: ui.column
    key: int = 0
    version: str = ""
    drawn: str = ""
    width: float = 480.0  # of the image, known once it is loaded
    start: tuple[float, float] | None = None  # where the button went down


class MarkPage:
    """The page in one browser. The prompts belong to the source and are shared by all browsers.

    Args:
        source: the recording or node to mark objects in.
        colours: by object, shared by all pages.
    """

    def __init__(self, source: MarkSource, colours: Colours) -> None:
        self._source, self._colours = source, colours
        self._frame = source.frames[0] if source.frames else None
        self._editor = Editor(source, "")
        self._editor.object_id = self._editor.free_name()
        self._cards: dict[str, _Card] = {}
        self._notified = len(source.notices)
        self._seen_version = -1
        self._listed: dict[str, Any] = {}

    # -- building --------------------------------------------------------------------------------

    def build(self) -> None:
        """Build the page for the current client."""
        ui.dark_mode(True)
        ui.query(".nicegui-content").classes("p-0 gap-0")
        with ui.row().classes("w-full items-start no-wrap gap-4 p-4"):
            with ui.column().classes("grow gap-3 min-w-0"):
                self._build_head()
                with (
                    ui.element("div")
                    .classes("w-full grid gap-3")
                    .style("grid-template-columns: repeat(auto-fit, minmax(min(280px, 100%), 1fr))")
                ):
                    for camera in self._source.cameras:
                        self._build_card(camera)
                if self._source.frames:
                    self._build_timeline()
            with ui.column().classes("w-72 shrink-0 gap-3"):
                self._build_side()
        ui.keyboard(self._on_key)
        ui.timer(REFRESH, self._refresh)

    def _build_head(self) -> None:
        with ui.row().classes("w-full items-center gap-3 h-8"):
            ui.label(self._source.title).classes("text-lg font-medium")
            ui.label(HELP).classes("text-sm text-gray-400 grow")
            with ui.row().classes("items-center gap-2 busy") as self._busy:
                ui.spinner(size="1.2em")
                self._busy_text = ui.label().classes("text-sm")
                self._stop = ui.button("Stop", on_click=self._source.stop)
                self._stop.props("dense flat no-caps")
        self._bar = ui.linear_progress(0, show_value=False, size="4px").props("instant-feedback")

    def _build_card(self, camera: str) -> None:
        with ui.column().classes("gap-1 min-w-0"):
            ui.label(camera).classes("text-sm font-medium")
            picture = ui.interactive_image(
                on_mouse=lambda e: self._on_mouse(camera, e),
                events=["mousedown", "mousemove", "mouseup"],
                sanitize=False,  # the drawing contains only numbers and colours
            ).classes("w-full rounded cursor-crosshair")
            picture.on("contextmenu.prevent", js_handler="() => {}")
            picture.on("loaded", lambda e: self._on_loaded(camera, e))
            below = ui.column().classes("w-full gap-0 text-sm seen")
        self._cards[camera] = _Card(picture, below)

    def _build_timeline(self) -> None:
        frames = self._source.frames
        with ui.row().classes("w-full items-center gap-2 no-wrap"):
            back = ui.button(icon="chevron_left", on_click=lambda: self._step(-1))
            back.props('dense flat aria-label="Previous frame"')
            self._slider = ui.slider(
                min=0, max=max(1, len(frames) - 1), value=0, on_change=lambda e: self._go(e.value)
            ).classes("grow")
            on = ui.button(icon="chevron_right", on_click=lambda: self._step(1))
            on.props('dense flat aria-label="Next frame"')
            self._place = ui.label().classes("text-sm w-48 text-right")
        with ui.row().classes("w-full items-center gap-2"):
            ui.button("Track", icon="play_arrow", on_click=self._source.track).props("no-caps")
            self._saving = ui.button("Save", icon="save", on_click=self._save)
            self._saving.props("no-caps outline")
            self._tracked = ui.label().classes("text-sm text-gray-400 grow text-right")

    def _build_side(self) -> None:
        with ui.row().classes("w-full items-center no-wrap gap-1"):
            self._name = ui.input("Object", on_change=lambda e: self._rename(e.value))
            self._name.classes("grow").props("dense outlined").value = self._editor.object_id
            new = ui.button(icon="add", on_click=self._new).props("dense flat")
            new.tooltip("Mark another object")
        ui.label("Objects").classes("text-sm text-gray-400")
        self._objects = ui.column().classes("w-full gap-0")
        with ui.column().classes("w-full gap-3") as edits:
            ui.label("Prompts on this frame").classes("text-sm text-gray-400")
            self._prompts = ui.column().classes("w-full gap-0")
            undo = ui.button("Undo", icon="undo", on_click=self._undo)
            undo.props("no-caps outline dense").classes("px-2")
            ui.label(KEYS).classes("text-xs text-gray-500")
        edits.set_visibility(bool(self._source.frames))  # prompts sent to a node cannot be edited

    # -- what the user does ----------------------------------------------------------------------

    def _on_mouse(self, camera: str, e: events.MouseEventArguments) -> None:
        card, here = self._cards[camera], (e.image_x, e.image_y)
        if e.type == "mousedown":
            card.start = here
            if e.button == 2:
                card.start = None
                self._edit(lambda: self._editor.point(camera, card.key, *here, False))
            return
        if card.start is None:
            return
        if e.type == "mousemove" and e.buttons & 1:
            self._draw(camera, here)
            return
        start, card.start = card.start, None  # released, possibly outside the image
        if is_box(start, here, card.width):
            self._edit(lambda: self._editor.box(camera, card.key, start, here))
        elif e.type == "mouseup":
            positive = not (e.shift or e.ctrl)
            self._edit(lambda: self._editor.point(camera, card.key, *start, positive))
        self._draw(camera)

    def _on_loaded(self, camera: str, e: events.GenericEventArguments) -> None:
        self._cards[camera].width = float(e.args["width"])
        self._draw(camera)

    def _on_key(self, e: events.KeyEventArguments) -> None:
        if not e.action.keydown:
            return
        if e.key.arrow_left or e.key.arrow_right:
            self._step(1 if e.key.arrow_right else -1)
        elif e.key == "z" and (e.modifiers.ctrl or e.modifiers.meta):
            self._undo()

    def _edit(self, change: Callable[[], Any]) -> None:
        try:
            change()
        except InputError as error:
            ui.notify(str(error), type="negative", multi_line=True, timeout=10_000)
        self._refresh()

    def _undo(self) -> None:
        def change() -> None:
            if not self._editor.undo():
                ui.notify("there is nothing to undo")

        self._edit(change)

    def _step(self, by: int) -> None:
        if self._source.frames:
            self._slider.value = min(max(self._slider.value + by, 0), len(self._source.frames) - 1)

    def _go(self, position: float) -> None:
        self._frame = self._source.frames[min(int(position), len(self._source.frames) - 1)]
        self._seen_version = -1
        self._refresh()

    def _rename(self, name: str | None) -> None:
        self._editor.object_id = (name or "").strip()
        self._seen_version = -1

    def _new(self) -> None:
        self._name.value = self._editor.free_name()
        self._name.run_method("select")

    async def _save(self) -> None:
        try:
            text = await run.io_bound(self._source.save)
        except (InputError, OSError) as error:
            ui.notify(f"not saved: {error}", type="negative", multi_line=True, timeout=10_000)
        else:
            ui.notify(text, type="positive", multi_line=True, timeout=10_000)

    # -- what is shown ---------------------------------------------------------------------------

    def _refresh(self) -> None:
        version = self._source.version
        if version == self._seen_version:
            return
        self._seen_version = version
        for name in self._source.objects:
            self._colours[name]  # assigns the next colour
        self._notify()
        self._show_work()
        for camera in self._cards:
            self._show_view(camera, self._source.view(camera, self._frame))
        self._show_objects()
        self._show_prompts()
        if self._source.frames:
            self._show_place()

    def _notify(self) -> None:
        notices = self._source.notices
        for text in notices[self._notified :]:
            ui.notify(text, type="warning", multi_line=True, timeout=10_000)
        self._notified = len(notices)

    def _show_work(self) -> None:
        work = self._source.work
        for element in (self._busy, self._bar):  # invisible elements keep their space
            element.classes(add="" if work else "invisible", remove="invisible" if work else "")
        if work is not None:
            several = work.total > 1
            self._stop.set_visibility(several)
            self._bar.value = work.done / work.total if several else 0
            self._bar.props(remove="indeterminate") if several else self._bar.props("indeterminate")
            count = f" frame {work.done + 1} of {work.total}" if several else " ..."
            self._busy_text.text = work.text + count

    def _show_view(self, camera: str, view: View) -> None:
        card = self._cards[camera]
        if (view.key, view.version) != (card.key, card.version):
            card.key, card.version = view.key, view.version
            asked = {"camera": camera, "frame": view.key, "version": view.version}
            card.picture.set_source(f"/view?{urlencode(asked)}")
            card.below.clear()
            with card.below:
                for name in self._source.objects:
                    if name in view.seen:
                        self._show_seen(name, view.seen[name])
        self._draw(camera)

    def _show_seen(self, name: str, seen: Seen) -> None:
        with ui.row().classes("w-full items-center gap-2 no-wrap"):
            self._dot(name)
            ui.label(name).classes("truncate grow")
            ui.label(describe(seen)).classes("text-gray-400 whitespace-nowrap")

    def _draw(self, camera: str, end: tuple[float, float] | None = None) -> None:
        """Draw the prompts, and the box that is being drawn."""
        card = self._cards[camera]
        on_image = {o: p for (c, o), p in self._source.prompts(card.key).items() if c == camera}
        drawn = prompts_svg(on_image, self._colours, card.width)
        if card.start is not None and end is not None:
            drawn += box_svg(card.start, end, "white", card.width)
        if drawn != card.drawn:
            card.drawn = drawn
            card.picture.set_content(drawn)

    def _is_new(self, what: str, content: Any) -> bool:
        """Whether a list's content has changed. Unchanged lists are not rebuilt, because that would
        interrupt a click on them."""
        before, self._listed[what] = self._listed.get(what), content
        return bool(before != content)

    def _show_objects(self) -> None:
        listed = [tuple(self._source.objects.items()), self._editor.object_id]
        if not self._is_new("objects", listed):
            return
        self._objects.clear()
        with self._objects:
            for name, camera in self._source.objects.items():
                current = name == self._editor.object_id
                row = ui.row().classes(
                    "w-full items-center gap-2 no-wrap rounded px-2 cursor-pointer"
                )
                row.classes("bg-gray-700" if current else "")
                with row:
                    self._dot(name)
                    label = ui.label(name).classes("truncate grow")
                    ui.label(f"in {camera}").classes("text-xs text-gray-400 whitespace-nowrap")
                    forget = ui.button(
                        icon="delete",
                        on_click=lambda _, n=name: self._edit(lambda: self._editor.forget(n)),
                    )
                    forget.props(f'dense flat size=sm aria-label="Forget {name}"')
                    forget.tooltip("Forget this object")
                label.on("click", lambda _, n=name: self._name.set_value(n))
            if not self._source.objects:
                ui.label("none yet: click on one in any view").classes("text-sm text-gray-500")

    def _show_prompts(self) -> None:
        shown = [
            (camera, self._cards[camera].key, prompt)
            for camera in self._cards
            for (where, _), prompt in self._source.prompts(self._cards[camera].key).items()
            if where == camera
        ]
        if not self._is_new("prompts", shown):
            return
        self._prompts.clear()
        with self._prompts:
            for camera, key, prompt in shown:
                if prompt.box is not None or prompt.mask is not None:
                    what = "mask" if prompt.box is None else "box"
                    self._show_prompt(camera, key, prompt, None, what, "white")
                for index, ((x, y), label) in enumerate(
                    zip(prompt.points, prompt.labels, strict=True)
                ):
                    what = f"{'+' if label else '−'} {x:.0f}, {y:.0f}"
                    colour = POSITIVE if label else NEGATIVE
                    self._show_prompt(camera, key, prompt, index, what, colour)
            if not shown:
                ui.label("none").classes("text-sm text-gray-500")

    def _show_prompt(
        self, camera: str, key: int, prompt: Prompt, index: int | None, what: str, colour: str
    ) -> None:
        name = prompt.object_id
        with ui.row().classes("w-full items-center gap-2 no-wrap px-2"):
            self._dot(name)
            ui.label(what).classes("text-sm grow").style(f"color: {colour}")
            ui.label(camera).classes("text-xs text-gray-400")
            ui.button(
                icon="close",
                on_click=lambda: self._edit(lambda: self._editor.remove(camera, key, name, index)),
            ).props('dense flat size=sm aria-label="Remove"')

    def _show_place(self) -> None:
        frames = self._source.frames
        position = frames.index(self._frame)
        self._place.text = f"frame {self._frame} ({position + 1} of {len(frames)})"
        self._saving.set_enabled(self._source.unsaved)
        prompted = ", ".join(map(str, self._source.prompted))
        where = f"prompts on frame {prompted}" if prompted else "no prompts"
        self._tracked.text = f"{where}; masks on {self._source.tracked} of {len(frames)} frames"

    def _dot(self, name: str) -> None:
        colour = css(self._colours[name])
        ui.element("div").classes("w-3 h-3 rounded-full shrink-0").style(f"background: {colour}")


def describe(seen: Seen) -> str:
    """A short text about one object in one view."""
    if seen.skipped is not None:
        return f"not searched for: {seen.skipped}"
    where = "query view, " if seen.marked else ""
    if seen.mask is None:
        return f"{where}not seen (presence {seen.presence:.2f})"
    score = "" if seen.score is None else f", score {seen.score:.2f}"
    return f"{where}presence {seen.presence:.2f}{score}"
