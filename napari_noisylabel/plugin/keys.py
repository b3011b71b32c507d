"""One key per decision, from those that napari's labels, image and viewer leave free."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from napari import Viewer
from napari.layers import Layer
from napari.utils.key_bindings import KeymapProvider, coerce_keybinding

# napari 0.9 uses B C E F L M O P V X Y Z and digits on the viewer, image and labels layers.
KEYS: dict[str, str] = {
    "accept": "A",
    "reject": "R",
    "edit": "D",
    "skip": "N",
    "back": "Shift-N",
    "undo": "U",
    "redo": "Shift-U",
    "unsure": "Q",
    "verify": "W",
    "overlay": "H",
    "affinity": "T",
}


class ReviewKeys:
    """Binds actions to the viewer and to every layer, and gives the keys back.

    Layers come first in napari's look-up, and a shapes layer knows A, D and R, hence both.
    """

    def __init__(self, viewer: Viewer, actions: Mapping[str, Callable[[], Any]]) -> None:
        self._viewer = viewer
        self._bound = {coerce_keybinding(KEYS[name]): self._called(act) for name, act in actions.items()}
        self._before: list[tuple[KeymapProvider, dict[Any, Any]]] = []
        self._bind(viewer)
        for layer in viewer.layers:
            self._bind(layer)
        viewer.layers.events.inserted.connect(self._on_inserted)
        viewer.layers.events.removed.connect(self._on_removed)

    def release(self) -> None:
        """Give every key back to whoever had it."""
        self._viewer.layers.events.inserted.disconnect(self._on_inserted)
        self._viewer.layers.events.removed.disconnect(self._on_removed)
        for provider, before in self._before:
            self._give_back(provider, before)
        self._before = []

    @staticmethod
    def _called(act: Callable[[], Any]) -> Callable[[Any], None]:
        def press(_: Any) -> None:
            act()

        return press

    def _bind(self, provider: Viewer | Layer) -> None:
        self._before.append((provider, dict(provider.keymap)))
        for key, press in self._bound.items():
            provider.bind_key(key, press, overwrite=True)

    def _give_back(self, provider: KeymapProvider, before: Mapping[Any, Any]) -> None:
        for key, press in self._bound.items():
            if provider.keymap.get(key) is press:
                provider.bind_key(key, before.get(key), overwrite=True)

    def _on_inserted(self, event: Any) -> None:
        self._bind(event.value)

    def _on_removed(self, event: Any) -> None:
        gone = [pair for pair in self._before if pair[0] is event.value]
        self._before = [pair for pair in self._before if pair[0] is not event.value]
        for provider, before in gone:
            self._give_back(provider, before)
